"""Recorded requests: which form a file has, the unit of its times, its rows."""
