"""Inception as clean-fid runs it: its TorchScript file, its resize; features, and class probabilities."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from parediff.errors import RequestError
from parediff.metrics import clean
from parediff.metrics.extractors import Extractor, accelerator, check_photographs, coloured
from parediff.metrics.weights import WeightsFile
from parediff.provenance import file_fingerprint

INCEPTION = WeightsFile(
    name="inception-2015-12-05.pt",
    origin="https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/inception-2015-12-05.pt",
)


@dataclass(eq=False)
class Inception(Extractor):
    """Pooled features [N, 2048] of images resized to 299 with clean-fid's bicubic (arXiv 2104.11222).

    `path` null: torch's cache, clean-fid's own place, else the origin. Grey images count as RGB.
    """

    resizes: ClassVar[bool] = True

    path: str | None

    @property
    def name(self) -> str:
        return "inception"

    @cached_property
    def file(self) -> Path:
        """The TorchScript file, fetched where it has to be."""
        own = clean.inception_file()
        return own if self.path is None and own is not None else INCEPTION.locate(self.path)

    @cached_property
    def network(self) -> Any:
        """The TorchScript module: `layers` up to the pooled features, and the whole of it up to the classes."""
        accepted = f"{INCEPTION.name} of {INCEPTION.origin} is accepted"
        try:
            network: Any = torch.jit.load(self.file, map_location=accelerator()).eval()
        except RuntimeError as error:
            raise RequestError("path", self.file, f"{accepted}; this is no TorchScript file") from error
        if not hasattr(network, "layers"):
            raise RequestError("path", self.file, f"{accepted}; this is another network")
        return network

    def check(self, image_shape: tuple[int, int, int]) -> None:
        check_photographs(self, image_shape)
        _ = self.network

    @torch.inference_mode()
    def features(self, images: Tensor) -> Tensor:
        pixels = clean.resized(coloured(images)).to(accelerator())
        return self.network.layers((pixels - 128) / 128).flatten(1).float().cpu()  # the file's own range

    @torch.inference_mode()
    def probabilities(self, images: Tensor) -> Tensor:
        """Class probabilities [N, K]: the network's own resize and no bias in its last layer, as scores are published.

        So does StyleGAN2-ADA, whose file this is (Karras et al. 2020, arXiv 2006.06676).
        """
        pixels = coloured(images).contiguous().to(accelerator())
        return self.network(pixels, no_output_bias=True).float().cpu()

    def fingerprint(self) -> dict[str, Any]:
        return {"inception": file_fingerprint(self.file), "resize": "clean-fid bicubic to 299, not rounded"}
