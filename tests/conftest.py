"""The fixtures of the conformance suites serve all tests."""

from parediff.testing.conftest import _nothing_draws_from_the_global_generator_unseeded, weights

__all__ = ["_nothing_draws_from_the_global_generator_unseeded", "weights"]
