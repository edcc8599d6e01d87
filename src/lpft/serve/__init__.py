"""A trained classifier as an HTTP service: every prediction is that of ``runs/predict.py``."""
