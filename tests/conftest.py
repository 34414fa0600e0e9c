"""The fixtures of the conformance suites serve all tests."""

from pathlib import Path

import pytest

from parediff.testing.conftest import _nothing_draws_from_the_global_generator_unseeded, weights

__all__ = ["_nothing_draws_from_the_global_generator_unseeded", "saved_model", "shallow_model", "weights"]


@pytest.fixture(scope="session")
def saved_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny unconditional pipeline on disk, for runs of the whole line."""
    import tiny

    path = tmp_path_factory.mktemp("tiny")
    tiny.unconditional_model().pipeline.save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def shallow_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with one level, for runs of whose network nothing is asked."""
    import tiny

    path = tmp_path_factory.mktemp("shallow")
    tiny.unconditional_model(
        block_out_channels=(8,), down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",)
    ).pipeline.save_pretrained(path)
    return path
