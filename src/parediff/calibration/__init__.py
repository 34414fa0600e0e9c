"""Where calibration data comes from."""
