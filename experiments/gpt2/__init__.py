"""GPT-2 from scratch (Sec. 4.1.1, Figures 1a and 2): AdamW and IVON under one loop."""
