"""Whether this machine has a W&B account to upload to."""

from __future__ import annotations

import urllib.error
import urllib.request


def has_account() -> bool:
    """An API key from the environment, netrc or W&B's settings, as W&B itself looks it up; never asks for one."""
    import wandb

    wandb.setup(wandb.Settings(silent=True))
    return bool(wandb.login(prompt=False, verify=False))


def require_answer(seconds: float) -> None:
    """Raise OSError unless W&B's server answers at all; asked first, because a start that fails blocks the run's id."""
    import wandb

    address = wandb.setup().settings.base_url
    try:
        with urllib.request.urlopen(address, timeout=seconds):
            return
    except urllib.error.HTTPError:
        return
