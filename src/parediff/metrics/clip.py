"""How well images show what their prompts ask for (Hessel et al. 2021, arXiv 2104.08718)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from parediff.errors import RequestError
from parediff.metrics.base import Metric
from parediff.metrics.extractors import accelerator, coloured
from parediff.metrics.statistics import Mean
from parediff.metrics.weights import missing, weights_fingerprint
from parediff.models.finite import require_finite

CHECKPOINTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")


@dataclass(eq=False)
class ClipScore(Metric[Mean]):
    """Mean over images of 100 max(cos(image, prompt), 0), with open_clip's network, preprocessing and tokenizer.

    `path` is a folder in open_clip's format; null takes `model` with the weights `pretrained`, as open_clip lists them.
    """

    section: ClassVar[Literal["quality", "fidelity"]] = "quality"
    better: ClassVar[Literal["lower", "higher"]] = "higher"
    meaning: ClassVar[str] = "CLIP score"

    model: Annotated[str, "of open_clip"]
    pretrained: Annotated[str, "its weights, as open_clip lists them"]
    path: str | None

    @property
    def source(self) -> str:
        return self.model if self.path is None else f"local-dir:{Path(self.path).expanduser()}"

    @cached_property
    def network(self) -> Any:
        import open_clip

        if self.path is not None:
            self._check_folder(Path(self.path).expanduser())
        try:
            network = open_clip.create_model(
                self.source, pretrained=self.pretrained if self.path is None else None, require_pretrained=True
            )
        except (OSError, ValueError, RuntimeError) as error:
            if self.path is not None:
                raise RequestError("path", self.path, f"no network of open_clip ({str(error)[:160]})") from error
            file = f"{self.model} with the weights {self.pretrained!r}"
            origin = "the hub, where open_clip keeps it"
            raise missing(file, origin, "open_clip's cache", error) from error
        return network.eval().requires_grad_(False).to(accelerator())

    def _check_folder(self, folder: Path) -> None:
        """open_clip goes on with random weights where a folder has none."""
        if not (folder / "open_clip_config.json").is_file():
            raise RequestError("path", self.path, "a folder with open_clip_config.json is accepted")
        if not any((folder / name).is_file() for name in CHECKPOINTS):
            raise RequestError("path", self.path, f"a folder with {' or '.join(CHECKPOINTS)} is accepted")

    @cached_property
    def tokenizer(self) -> Any:
        import open_clip

        return open_clip.get_tokenizer(self.source)

    @cached_property
    def preprocess(self) -> Any:
        from open_clip.transform import PreprocessCfg, image_transform_v2

        return image_transform_v2(PreprocessCfg(**self.network.visual.preprocess_cfg), is_train=False)

    def check(self, conditions: Sequence[Any] | None, image_shape: tuple[int, int, int]) -> None:
        if not conditions or not all(isinstance(prompt, str) for prompt in conditions):
            raise RequestError("conditions", conditions and conditions[0], "prompts are accepted: a CLIP score reads")
        if image_shape[0] not in (1, 3):
            raise RequestError("model", self.model, f"1 or 3 channels are accepted, not {image_shape[0]}")
        _ = self.network

    @torch.inference_mode()
    def measure(self, batch: Tensor, reference: Tensor | None, conditions: Sequence[Any] | None) -> Mean:
        pictures = [Image.fromarray(image) for image in coloured(batch).permute(0, 2, 3, 1).contiguous().numpy()]
        pixels = torch.stack([self.preprocess(picture) for picture in pictures]).to(accelerator())
        seen = self.network.encode_image(pixels)
        read = self.network.encode_text(self.tokenizer(list(conditions or ())).to(accelerator()))
        cosines = require_finite(functional.cosine_similarity(seen.double(), read.double()), "CLIP similarities")
        return Mean.of((100 * cosines.clamp(min=0)).cpu().numpy())

    def value(self, statistic: Mean) -> float:
        return statistic.value

    @cached_property
    def _weights(self) -> str:
        return weights_fingerprint(self.network)

    def fingerprint(self) -> dict[str, Any]:
        return {"clip": self._weights, "preprocess": dict(self.network.visual.preprocess_cfg), "scale": 100}
