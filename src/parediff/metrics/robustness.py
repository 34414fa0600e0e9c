"""How a classifier stands noise in its arithmetic: accuracy under Gaussian perturbation (NIPQ, section 5.3)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from parediff.cost.layers import weight_layers
from parediff.metrics.base import Metric
from parediff.metrics.statistics import Mean
from parediff.sampling.batch import Batch
from parediff.validation import Count, NonNegative, Seed


@dataclass(eq=False)
class NoiseRobustness(Metric[Mean]):
    """Top-1 with `sigma` times the operand's root mean square of Gaussian noise on every layer's weight or input.

    The noise enters behind the quantisers, as an imprecise multiplier would add it; `draws` are averaged.
    """

    section: ClassVar[Literal["quality", "fidelity"]] = "quality"
    better: ClassVar[Literal["lower", "higher"]] = "higher"
    judges: ClassVar[Literal["images", "classes"]] = "classes"

    operand: Annotated[Literal["weights", "activations"], "what the noise is added to"]
    sigma: NonNegative
    draws: Annotated[Count, "of the noise, averaged"]
    seed: Annotated[Seed, "of the noise"]

    def take(self, batch: Batch, reference: Tensor | None) -> None:
        """The batch's network answers again, under noise."""
        if batch.network is None or batch.inputs is None:
            raise TypeError("robustness needs the network and the images it saw")
        device = next(batch.network.parameters()).device
        labels = torch.tensor(list(batch.wanted or ()), device=device)
        self._take(self.probe(batch.network, batch.inputs.to(device), labels))

    def measure(self, batch: Tensor, reference: Tensor | None, conditions: Sequence[Any] | None) -> Mean:
        raise TypeError("classes alone do not tell how a network stands noise")

    @torch.inference_mode()
    def probe(self, network: nn.Module, images: Tensor, labels: Tensor) -> Mean:
        """Top-1 under noise of a batch NCHW in [-1, 1]."""
        hits = []
        for draw in range(self.draws):
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + draw)
            with perturbed(network, self.operand, self.sigma, generator):
                hits.append((network(images).argmax(1) == labels).double())
        return Mean.of(torch.stack(hits).mean(0).cpu().numpy())

    def value(self, statistic: Mean) -> float:
        return statistic.value

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
