"""Tables 1, 8, 9, 10 and Figures 1b, 1c of the paper, and the overfitting curves of the blog post.

One grid: data sets x networks x methods x seeds, every network trained once and looked at in several ways.
"""
