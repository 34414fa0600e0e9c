"""Stepwise correction, our own: mean error, gain and layers' biases of every step, along the corrected trajectory.

At each step of the sampler the compressed and the uncompressed network see the same input, the one to which the
corrected steps before have led. Their mean difference over images, for each pixel as far as the images tell it, and the
gain by regression are taken out of the prediction; only then the next step is taken. What a step leaves wrong on
average would come back at the next one, so it is that part that is removed. No paper.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from parediff.calibration.base import walk
from parediff.correction.affine import NAME, LinearReconstruction, PairSums, both
from parediff.correction.layer_bias import NAME as BIASES
from parediff.correction.layer_bias import LayerBiases
from parediff.methods.base import Method
from parediff.models.diffusion.door import Call, Condition, Predict, Run, Sampled, Wrapper
from parediff.models.diffusion.pipeline import DiffusionModel
from parediff.models.diffusion.sampler import Sampler
from parediff.validation import require


@dataclass(frozen=True)
class Stepwise(Method):
    """Listed after the method that quantises; tables are made for `sampler`'s steps and interpolated in between.

    `pixels`: the mean error of each pixel, else of each channel. `layers`: every quantised layer gets a bias for each
    channel and step as well, fitted in the order in which layers run.
    """

    corrects: ClassVar[bool] = True

    pixels: bool
    layers: bool
    sampler: Sampler

    def prepare(self, model: DiffusionModel) -> None:
        if model.device.type != "meta":  # an outline has no time steps to tell
            model.places(self.sampler)  # raises where one comes twice
        steps, (channels, height, width) = self.sampler.steps, model.sample_shape
        shape = (channels, height, width) if self.pixels else (channels, 1, 1)
        table = LinearReconstruction(steps, shape)
        model.denoiser.add_module(NAME, table.to(model.device))
        if self.layers:
            biases = LayerBiases(model.denoiser, table.clock, steps)
            require(bool(biases.paths), "layers", True, "false, without quantised layers,")
            model.denoiser.add_module(BIASES, biases.to(model.device))
        model.wrap(_corrected)

    def calibrate(self, model: DiffusionModel, calls: Iterable[Call]) -> None:
        table, biases = _table(model), _biases(model)
        table.clock.remember(model.times(self.sampler))

        def visit(place: int, batches: Sequence[Call]) -> list[Tensor]:
            if biases is not None:
                biases.fit(model.denoiser, place, [_pass(model, call) for call in batches])
            sums, found = PairSums(), []
            for call in batches:
                with _biased(model, call.t):
                    quantized, exact = both(model, call)
                sums.add(quantized[:, : table.channels], exact[:, : table.channels])
                found.append(quantized)
            table.fill_entry(place, sums.of_pixels() if self.pixels else sums.of_channels())
            return [table(one, call.t) for one, call in zip(found, batches, strict=True)]

        walk(calls, model, self.sampler, visit)

    def fired(self, model: DiffusionModel) -> dict[str, Any]:
        table, biases = _table(model), _biases(model)
        return {
            "time_steps": len(table.clock.known),
            "alpha": [float(table.alpha.min()), float(table.alpha.max())],
            "largest_beta": float(table.beta.abs().max()),
            "layers_with_biases": 0 if biases is None else len(biases.paths),
        }


def _pass(model: DiffusionModel, call: Call) -> Any:
    return lambda: model.predict(call.x, call.t, call.cond)


def _corrected(run: Run) -> Wrapper:
    def wrapper(network: Predict, x: Tensor, t: Tensor, cond: Condition) -> Tensor:
        with _biased(run.model, t):
            output = network(x, t, cond)
        return _table(run.model)(output, t)

    return wrapper


@contextmanager
def _biased(model: Sampled, t: Tensor) -> Iterator[None]:
    """With the layers' biases of these time steps, where there are any."""
    biases = _biases(model)
    if biases is None:
        yield
        return
    with biases.added(model.denoiser, t):
        yield


def _table(model: Sampled) -> LinearReconstruction:
    """Where the maps are kept, in this model's own denoiser."""
    module = getattr(model.denoiser, NAME)
    assert isinstance(module, LinearReconstruction)
    return module


def _biases(model: Sampled) -> LayerBiases | None:
    module = getattr(model.denoiser, BIASES, None)
    return module if isinstance(module, LayerBiases) else None
