"""Whether this machine has a W&B account to upload to."""

from __future__ import annotations


def has_account() -> bool:
    """An API key from the environment, netrc or W&B's settings, as W&B itself looks it up; never asks for one."""
    import wandb

    wandb.setup(wandb.Settings(silent=True))
    return bool(wandb.login(prompt=False, verify=False))
