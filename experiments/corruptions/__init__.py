"""Corrupted images: Figure 7 of the paper (App. C.3), CIFAR-10-C by severity.

The networks are those of Table 2. They have seen no corruption in training, so accuracy falls with severity;
a classifier whose uncertainty is worth something knows that it does.
"""
