"""Where a classifier looks: Score-CAM, how like two sets of maps are, and how faithful they are.

explain           maps of one candidate, and how it bears them: run once, kept as a file
randomized        the baseline that knows nothing
saliency_section  the finding, from kept maps alone
"""
