"""Learned perceptual distance to the uncompressed model's images (Zhang et al. 2018, arXiv 1801.03924)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from parediff.errors import RequestError
from parediff.metrics.base import Metric
from parediff.metrics.extractors import accelerator, coloured
from parediff.metrics.pairs import LEVELS, as_pairs
from parediff.metrics.statistics import Mean
from parediff.metrics.weights import WeightsFile
from parediff.models.finite import require_finite
from parediff.models.weights import load_weights
from parediff.provenance import file_fingerprint

TORCHVISION = "https://download.pytorch.org/models/"
BACKBONES = {
    network: WeightsFile(file, TORCHVISION + file, digest)
    for network, file, digest in (
        ("alex", "alexnet-owt-7be5be79.pth", "7be5be79"),
        ("squeeze", "squeezenet1_1-b8a52dc0.pth", "b8a52dc0"),
        ("vgg", "vgg16-397923af.pth", "397923af"),
    )
}
SLICE = re.compile(r"^slices?\.?\d+\.")
LEAST_SIDE = {"alex": 32, "squeeze": 32, "vgg": 32}
"""Smaller images are enlarged to this, bilinearly: the networks' strides leave nothing of fewer pixels."""


@dataclass(eq=False)
class PerceptualDistance(Metric[Mean]):
    """Mean over images, by torchmetrics' network; `path` is torchvision's weights file of the backbone.

    null: torch's cache, else torchvision's site. The linear layers come with torchmetrics. Grey images count as RGB.
    """

    section: ClassVar[Literal["quality", "fidelity"]] = "fidelity"
    better: ClassVar[Literal["lower", "higher"]] = "lower"
    meaning: ClassVar[str] = "LPIPS"

    backbone: Literal["alex", "squeeze", "vgg"]
    path: str | None

    @cached_property
    def network(self) -> Any:
        from torchmetrics.functional.image.lpips import _LPIPS

        network = _LPIPS(net=self.backbone, pnet_rand=True)  # random until the next line
        file = BACKBONES[self.backbone].locate(self.path)
        given = load_weights(file, "path")
        wanted = _places(network.net)
        missing = [name for name in wanted if name not in given]
        if missing:
            raise RequestError("path", file, f"torchvision's {self.backbone} weights are accepted; no {missing[0]}")
        try:
            network.net.load_state_dict({place: given[name] for name, place in wanted.items()})
        except RuntimeError as error:
            raise RequestError("path", file, f"torchvision's {self.backbone} weights are accepted") from error
        return network.eval().to(accelerator())

    def check(self, conditions: Sequence[Any] | None, image_shape: tuple[int, int, int]) -> None:
        if image_shape[0] not in (1, 3):
            raise RequestError("backbone", self.backbone, f"1 or 3 channels are accepted, not {image_shape[0]}")
        _ = self.network

    @torch.inference_mode()
    def measure(self, batch: Tensor, reference: Tensor | None, conditions: Sequence[Any] | None) -> Mean:
        images, targets = (self._prepared(side) for side in as_pairs(batch, reference))
        found = self.network(images, targets).flatten().double().cpu()
        return Mean.of(require_finite(found, "LPIPS").numpy())

    def _prepared(self, images: Tensor) -> Tensor:
        """0..255 to [-1, 1], large enough."""
        scaled, least = coloured(images) / (LEVELS / 2) - 1, LEAST_SIDE[self.backbone]
        height, width = scaled.shape[-2:]
        if min(height, width) < least:
            size = max(least, height), max(least, width)
            scaled = torch.nn.functional.interpolate(scaled, size=size, mode="bilinear", align_corners=False)
        return scaled.to(accelerator())

    def value(self, statistic: Mean) -> float:
        return statistic.value

    def fingerprint(self) -> dict[str, Any]:
        file = BACKBONES[self.backbone].locate(self.path)
        return {"backbone": self.backbone, "weights": file_fingerprint(file), "least_side": LEAST_SIDE[self.backbone]}


def _places(network: Any) -> dict[str, str]:
    """torchvision's key -> the key of torchmetrics' sliced copy: slice2.3.weight is features.3.weight."""
    return {SLICE.sub("features.", name): name for name in network.state_dict()}
