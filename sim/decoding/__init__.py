"""The decode loop: requests enter, grow and leave at step boundaries."""
