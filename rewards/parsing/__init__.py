"""Extracting, normalising and comparing answers: LaTeX, numbers, units, expressions."""
