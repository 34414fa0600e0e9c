"""The fixtures of the conformance suites serve all tests."""

from pathlib import Path

import pytest

from parediff.testing.conftest import _nothing_draws_from_the_global_generator_unseeded, weights

__all__ = ["_nothing_draws_from_the_global_generator_unseeded", "saved_model", "weights"]


@pytest.fixture(scope="session")
def saved_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny unconditional pipeline on disk, for runs of the whole line."""
    import tiny

    path = tmp_path_factory.mktemp("tiny")
    tiny.unconditional_model().pipeline.save_pretrained(path)
    return path
