"""A finished run as training data.

loader.py (batches of latents for training, in one file that can be copied into a training repository), select.py (a
table of the rows wanted), remove.py (rows taken out for good), statistics.py (statistics.json), card.py (README.md of
the root), export/ (the files that a trainer reads).
"""
