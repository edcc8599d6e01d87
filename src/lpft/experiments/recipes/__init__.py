"""Recipes of the paper's tables and figures, and what several of them need."""
