"""Weights & Biases, and its only door."""
