"""afdsim."""
