"""Accuracy: measured operating points against what is predicted for them."""
