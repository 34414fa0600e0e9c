"""DINOv2, whose features agree with people where Inception's do not (Stein et al. 2023, arXiv 2306.04675)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor

from parediff.errors import RequestError
from parediff.metrics import clean
from parediff.metrics.extractors import Extractor, accelerator, check_photographs, coloured
from parediff.metrics.weights import missing, weights_fingerprint

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, which the network was trained with
SIDE = 224


@dataclass(eq=False)
class Dinov2(Extractor):
    """The class token behind the last norm [N, D], of images resized to 224 (bicubic, PIL).

    `path` is a folder in transformers' format; null takes `model` from transformers' cache or the hub.
    """

    resizes: ClassVar[bool] = True

    model: Annotated[str, "a name on the hub"]
    path: str | None

    @property
    def name(self) -> str:
        return "dinov2"

    @cached_property
    def network(self) -> Any:
        from transformers import Dinov2Model

        if self.path is not None and not (Path(self.path).expanduser() / "config.json").is_file():
            raise RequestError("path", self.path, "a folder with config.json and model.safetensors is accepted")
        source = self.model if self.path is None else str(Path(self.path).expanduser())
        try:
            network, told = Dinov2Model.from_pretrained(source, use_safetensors=True, output_loading_info=True)
        except (OSError, ValueError, RuntimeError) as error:
            if self.path is not None:
                raise RequestError("path", self.path, f"no DINOv2 network ({str(error)[:160]})") from error
            raise missing(
                f"{self.model} (config.json, model.safetensors)",
                f"https://huggingface.co/{self.model}",
                "transformers' cache",
                error,
            ) from error
        if told["missing_keys"]:
            example = sorted(told["missing_keys"])[0]
            raise RequestError("path", source, f"weights of a whole DINOv2 network are accepted; {example} is missing")
        return network.eval().to(accelerator())

    def check(self, image_shape: tuple[int, int, int]) -> None:
        check_photographs(self, image_shape)
        _ = self.network

    @torch.inference_mode()
    def features(self, images: Tensor) -> Tensor:
        pixels = clean.resized(coloured(images), side=SIDE) / 255
        mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
        output = self.network(pixel_values=((pixels - mean) / std).to(accelerator()))
        return output.last_hidden_state[:, 0].float().cpu()

    @cached_property
    def _weights(self) -> str:
        return weights_fingerprint(self.network)

    def fingerprint(self) -> dict[str, Any]:
        return {"dinov2": self._weights, "resize": f"PIL bicubic to {SIDE}, not rounded"}
