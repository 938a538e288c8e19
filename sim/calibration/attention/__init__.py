"""How attention other than a core over a plain cache is calibrated: blocks, and states."""
