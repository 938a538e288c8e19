"""How long one launch of a kernel takes on a card."""
