"""How results are written, whole or not at all, and what they say of their making."""
