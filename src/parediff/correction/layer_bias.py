"""A bias for each channel of a layer at each time step: what quantisation shifts on average, given back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from parediff.quantization.layers import FoldableLayer, layers_of
from parediff.quantization.quantizer import bypassed
from parediff.quantization.time_context import TimeContext

NAME = "layer_biases"


class LayerBiases(nn.Module):
    """Tables [steps, channels], one for each quantised layer, in the order of their paths; 0 until fitted.

    A kernel adds its layer's bias anyway: a table exchanges it at every step and costs no operation.
    """

    def __init__(self, denoiser: nn.Module, context: TimeContext, steps: int) -> None:
        super().__init__()
        self._context = (context,)  # the denoiser's child, not ours: copied with the denoiser
        self.paths = [path for path, layer in layers_of(denoiser).items() if isinstance(layer, FoldableLayer)]
        shapes = [layers_of(denoiser)[path].weight.shape[0] for path in self.paths]
        self.tables = nn.ParameterList(
            nn.Parameter(torch.zeros(steps, channels), requires_grad=False) for channels in shapes
        )

    @contextmanager
    def added(self, denoiser: nn.Module, t: Tensor) -> Iterator[None]:
        """While the block runs, every layer's output is shifted by its table's row for t [B], once there are any."""
        if not len(self._context[0].known):
            yield
            return
        self._context[0].enter(t)
        with _hooked(denoiser, self.paths, self._add):
            yield

    def _add(self, number: int, output: Tensor) -> Tensor:
        row = self._context[0].look_up(self.tables[number]).to(output.dtype)
        return output + _along(row, output)

    @torch.no_grad()
    def fit(self, denoiser: nn.Module, place: int, passes: Sequence[Callable[[], Any]]) -> None:
        """Fill row `place` so that each layer's mean over images and positions is the uncompressed network's.

        A layer's row is found with those before it already in effect, in the order in which they run; of several
        passes the mean is taken.
        """
        for table in self.tables:
            table.data[place] = 0
        for run in passes:
            self._meet(denoiser, place, run, 1 / len(passes))

    def _meet(self, denoiser: nn.Module, place: int, run: Callable[[], Any], share: float) -> None:
        wanted: dict[int, Tensor] = {}

        def keep(number: int, output: Tensor) -> None:
            wanted[number] = _channel_means(output)

        def meet(number: int, output: Tensor) -> Tensor:
            shift = wanted[number] - _channel_means(output)
            self.tables[number].data[place] += share * shift
            return output + _along(shift[None].to(output.dtype), output)

        with bypassed(denoiser), _hooked(denoiser, self.paths, keep):
            run()
        with _hooked(denoiser, self.paths, meet):
            run()


@contextmanager
def _hooked(denoiser: nn.Module, paths: list[str], act: Any) -> Iterator[None]:
    handles = [
        denoiser.get_submodule(path).register_forward_hook(lambda _, __, output, number=number: act(number, output))
        for number, path in enumerate(paths)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _channel_means(output: Tensor) -> Tensor:
    """[C]: over all but the channels, the second axis of an image and the last of anything else."""
    channels = output.movedim(1, -1) if output.ndim == 4 else output
    return channels.flatten(0, -2).mean(dim=0)


def _along(rows: Tensor, output: Tensor) -> Tensor:
    """[B or 1, C] against [B, C, H, W] or [B, …, C]."""
    if output.ndim == 4:
        return rows[:, :, None, None]
    return rows.reshape(len(rows), *[1] * (output.ndim - 2), -1)
