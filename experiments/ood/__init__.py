"""Images from elsewhere: Table 3 and Figures 3a and 3b of the paper (Sec. 4.2.2).

The networks are those of Table 2. A classifier whose uncertainty is worth something is less sure of images
that show none of its classes.
"""
