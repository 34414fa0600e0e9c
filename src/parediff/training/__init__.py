"""LightningModules, and the only door to Lightning."""
