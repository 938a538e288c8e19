"""A grid of scenarios: axes, points, their store."""
