"""Engines: each walks a Program and agrees with the others to the nanosecond."""
