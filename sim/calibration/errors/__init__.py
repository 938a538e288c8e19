"""How far look-ups are off where a curve does not reach, measured on the shipped tables."""
