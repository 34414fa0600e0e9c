"""Reusing a denoiser's features between steps: what every method that skips work has in common."""
