"""Which runs to do next: a multi-objective search over methods and their settings. The only door to Optuna."""
