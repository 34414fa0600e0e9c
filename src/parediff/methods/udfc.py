"""UDFC: channels repaired without data, images or gradients (arXiv 2308.07209), in `correction.channels`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar

from parediff.correction.channels import Channels, Factors, Link, combination, drop, factors, links, scale
from parediff.errors import RequestError
from parediff.methods.base import Method
from parediff.models.diffusion.door import Call
from parediff.models.diffusion.pipeline import DiffusionModel
from parediff.quantization.layers import FoldableLayer
from parediff.validation import NonNegative, Positive, Range

LINKED = "layers with BatchNorm and ReLU behind them that one layer reads"


@dataclass(frozen=True)
class UdfcPruning(Method):
    """Of every linked layer the channels of smallest weight go, and the layer that reads them is given what they had.

    Front to back, so that each repair sees weights that are edited already. List it before the method that quantises.
    """

    serves: ClassVar[tuple[str, ...]] = ("classes",)

    share: Annotated[float, Range(above=0, below=1), "of the channels of each layer that go"]
    ridge: Annotated[Positive, "alpha_1: the pull of what stands for a channel towards nothing"]
    offset_weight: Annotated[NonNegative, "alpha_2: weight of the channels' offsets beside their weights"]

    def prepare(self, model: DiffusionModel) -> None:
        root = model.denoiser
        if any(isinstance(module, FoldableLayer) for module in root.modules()):
            raise RequestError("method", "udfc_pruning", "before the method that quantises, as [udfc_pruning,ptq], it")
        counts = {link: int(self.share * _channels(root.get_submodule(link.layer))) for link in links(root)}
        if not any(counts.values()):
            least = f"a network of {LINKED}, and a share of which some channel is a part, are accepted"
            raise RequestError("share", self.share, least)
        for link, count in counts.items():
            if count:
                root.get_submodule(link.layer).channels_removed = count  # type: ignore[assignment]
                drop(root, link, count, partial(combination, ridge=self.ridge, offset_weight=self.offset_weight))

    def fired(self, model: DiffusionModel) -> dict[str, Any]:
        """How many channels each layer has lost, and how many it has."""
        found = {path: module for path, module in model.denoiser.named_modules() if hasattr(module, "channels_removed")}
        layers = {  # a quantised layer stands inside its quantisers
            path.removesuffix(".layer"): {"removed": module.channels_removed, "kept": _channels(module)}
            for path, module in found.items()
        }
        return {"layers": layers, "removed": sum(one["removed"] for one in layers.values())}


@dataclass(frozen=True)
class UdfcRepair(Method):
    """Each channel of a quantised layer is scaled so that its rounded weights come nearest to the exact ones.

    The paper scales the inputs of the layer that reads it. Here the factor stands before the ReLU, in BatchNorm's gain
    and bias, which is the same product and rounds no weight anew.
    """

    corrects: ClassVar[bool] = True
    serves: ClassVar[tuple[str, ...]] = ("classes",)

    ridge: Annotated[NonNegative, "alpha_1: the pull of the factors towards 1"]
    offset_weight: Annotated[NonNegative, "alpha_2: weight of the channels' offsets beside their weights"]

    def prepare(self, model: DiffusionModel) -> None:
        chosen = _rounded(model)
        if not chosen:
            accepted = f"a network of {LINKED}, quantised by a method listed before, is accepted"
            raise RequestError("method", "udfc", accepted)
        for link in chosen:
            norm: Any = model.denoiser.get_submodule(link.norm)
            norm.add_module("repair", Factors(norm.num_features).to(norm.weight.device))

    def calibrate(self, model: DiffusionModel, calls: Iterable[Call]) -> None:
        for link in _rounded(model):
            layer: Any = model.denoiser.get_submodule(link.layer)
            norm = model.denoiser.get_submodule(link.norm)
            exact, rounded = (
                Channels.of(weight.detach(), layer.bias, norm) for weight in (layer.weight, layer.quantized_weight())
            )
            scale(model.denoiser, link, factors(exact, rounded, self.ridge, self.offset_weight))

    def fired(self, model: DiffusionModel) -> dict[str, Any]:
        """Smallest, mean and largest factor of each layer, by its norm."""
        found = {path: module for path, module in model.denoiser.named_modules() if isinstance(module, Factors)}
        values = {path.removesuffix(".repair"): module.values for path, module in found.items()}
        return {
            "layers": {path: [float(one.min()), float(one.mean()), float(one.max())] for path, one in values.items()},
            "scaled_channels": sum(int((one != 1).sum()) for one in values.values()),
        }


def _channels(layer: Any) -> int:
    return layer.weight.shape[0]


def _rounded(model: DiffusionModel) -> list[Link]:
    """Links whose layer has quantisers around it."""
    root = model.denoiser
    return [link for link in links(root) if isinstance(root.get_submodule(link.layer), FoldableLayer)]
