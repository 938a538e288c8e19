"""AFD against EP, cell by cell."""
