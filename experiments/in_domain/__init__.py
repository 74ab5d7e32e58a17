"""The Bayesian comparison on images like those of the training: Table 2 of the paper (Sec. 4.2.1)."""
