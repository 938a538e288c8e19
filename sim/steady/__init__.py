"""The steady state: what a load that never changes makes of a deployment."""
