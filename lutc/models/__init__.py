"""Models by path and texts as batches of tokens: what calibration, evaluation and Taylor-MLP start from. Importing this
imports no torch.
"""
