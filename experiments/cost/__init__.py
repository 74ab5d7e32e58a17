"""What training costs: Table 6 of the paper (Sec. 4.4)."""
