"""What the suites share: nothing random by accident, nothing fetched, one thread."""

import os

os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _nothing_draws_from_the_global_generator_unseeded() -> None:
    torch.default_generator.manual_seed(0)  # torch.manual_seed takes a millisecond for devices that are not here


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where small random networks in the extractors' own formats are kept, see networks.py."""
    return tmp_path_factory.mktemp("weights")
