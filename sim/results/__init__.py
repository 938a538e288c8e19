"""What a run leaves on disk, whole or not at all, with its provenance."""
