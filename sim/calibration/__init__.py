"""From measured kernels to calibration tables: measure, fit, check."""
