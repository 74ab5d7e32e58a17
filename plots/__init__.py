"""Tables and figures: a DataFrame in, files out. Knows no experiment and imports no torch."""
