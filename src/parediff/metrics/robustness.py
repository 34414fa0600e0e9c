"""How a classifier stands noise in its arithmetic: accuracy under Gaussian perturbation (NIPQ, section 5.3)."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from parediff.cost.layers import weight_layers
from parediff.errors import RequestError
from parediff.metrics.base import Metric
from parediff.metrics.statistics import Mean
from parediff.validation import require


class NetworkMetric(Metric[Mean]):
    """A mean over held-out images of what a network answers, rather than of images that a model drew."""

    section: ClassVar[Literal["quality", "fidelity"]] = "quality"
    better: ClassVar[Literal["lower", "higher"]] = "higher"

    @abstractmethod
    def probe(self, network: nn.Module, images: Tensor, labels: Tensor) -> Mean:
        """Of a batch NCHW in [-1, 1]."""

    def check(self, conditions: Sequence[Any] | None, image_shape: tuple[int, int, int]) -> None:
        raise RequestError("_target_", type(self).__name__, "a metric of drawn images; this one judges classifiers")

    def measure(self, batch: Tensor, reference: Tensor | None, conditions: Sequence[Any] | None) -> Mean:
        raise RequestError("metrics", type(self).__name__, "a metric of drawn images; this one judges classifiers")

    def observe(self, network: nn.Module, images: Tensor, labels: Tensor) -> None:
        """Take one batch of the present block."""
        self._take(self.probe(network, images, labels))

    def value(self, statistic: Mean) -> float:
        return statistic.value


@dataclass(eq=False)
class NoiseRobustness(NetworkMetric):
    """Top-1 with `sigma` times the operand's root mean square of Gaussian noise on every layer's weight or input.

    The noise enters behind the quantisers, as an imprecise multiplier would add it; `draws` are averaged.
    """

    operand: Literal["weights", "activations"]
    sigma: float
    draws: int
    seed: int

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.sigma >= 0, "sigma", self.sigma, "0 or more")
        require(self.draws >= 1, "draws", self.draws, "1 or more")

    @torch.inference_mode()
    def probe(self, network: nn.Module, images: Tensor, labels: Tensor) -> Mean:
        hits = []
        for draw in range(self.draws):
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + draw)
            with perturbed(network, self.operand, self.sigma, generator):
                hits.append((network(images).argmax(1) == labels).double())
        return Mean.of(torch.stack(hits).mean(0).cpu().numpy())

    def fingerprint(self) -> dict[str, Any]:
        return {"operand": self.operand, "sigma": self.sigma, "draws": self.draws, "seed": self.seed}


@contextmanager
def perturbed(
    network: nn.Module, operand: Literal["weights", "activations"], sigma: float, generator: torch.Generator
) -> Iterator[None]:
    """Noise on every convolution's and linear's operand while the block runs; what it was comes back bit by bit."""
    with ExitStack() as stack:
        for _, module, layer in weight_layers(network):
            act = _disturb_weight if operand == "weights" else _disturb_input
            stack.callback(act(module, layer, sigma, generator))
        yield


def _disturb_weight(module: nn.Module, layer: nn.Module, sigma: float, generator: torch.Generator) -> Callable[[], Any]:
    """Of the folded weight where there is one; returns how to take it back."""
    folded = getattr(module, "folded", None)
    weight: Any = layer.weight.data if folded is None else folded
    kept = weight.clone()
    weight.copy_(_noisy(weight, sigma, generator))
    return lambda: weight.copy_(kept)


def _disturb_input(module: nn.Module, layer: nn.Module, sigma: float, generator: torch.Generator) -> Callable[[], Any]:
    quantizer = getattr(module, "input_quantizer", None)
    if isinstance(quantizer, nn.Module):
        return quantizer.register_forward_hook(lambda _, __, output: _noisy(output, sigma, generator)).remove
    return module.register_forward_pre_hook(lambda _, args: (_noisy(args[0], sigma, generator), *args[1:])).remove


def _noisy(x: Tensor, sigma: float, generator: torch.Generator) -> Tensor:
    noise = torch.randn(x.shape, generator=generator).to(x)
    return x + sigma * x.square().mean().sqrt() * noise
