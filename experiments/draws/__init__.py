"""How many posterior draws are worth their time, in training and at test: Figure 4 of the paper."""
