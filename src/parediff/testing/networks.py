"""Small random networks in each extractor's own format, for the real loaders to read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

INCEPTION_FEATURES, DINOV2_FEATURES, CLIP_FEATURES = 24, 16, 16


class TinyInception(nn.Module):
    """Shaped like the published TorchScript: `layers`, `output`, a resize within, and the same arguments."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.AdaptiveAvgPool2d(6), nn.Flatten(), nn.Linear(108, width), nn.ReLU())
        self.output = nn.Linear(width, 11)

    def forward(
        self, img: Tensor, return_features: bool = False, use_fp16: bool = False, no_output_bias: bool = False
    ) -> Tensor:
        x = nn.functional.interpolate(img.float(), size=[299, 299], mode="bilinear", align_corners=False)
        features = self.layers((x - 128) / 128)
        if return_features:
            return features
        logits = nn.functional.linear(features, self.output.weight) if no_output_bias else self.output(features)
        return torch.softmax(10 * logits, dim=1)


def inception(folder: Path, width: int = INCEPTION_FEATURES) -> Path:
    torch.manual_seed(3)
    path = folder / "inception-2015-12-05.pt"
    torch.jit.script(TinyInception(width).eval()).save(str(path))
    return path


def dinov2(folder: Path) -> Path:
    from transformers import Dinov2Config, Dinov2Model

    torch.manual_seed(3)
    sizes = {"hidden_size": DINOV2_FEATURES, "num_hidden_layers": 1, "num_attention_heads": 2, "mlp_ratio": 2}
    Dinov2Model(Dinov2Config(image_size=28, patch_size=28, **sizes)).eval().save_pretrained(folder / "dinov2")
    return folder / "dinov2"


def clip(folder: Path) -> Path:
    """open_clip_config.json and open_clip_pytorch_model.bin, as open_clip pushes them to the hub."""
    import open_clip
    from open_clip.model import CLIP

    torch.manual_seed(3)
    vision = {"image_size": 32, "layers": 1, "width": 16, "head_width": 8, "patch_size": 16}
    text = {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
    model = {"embed_dim": CLIP_FEATURES, "vision_cfg": vision, "text_cfg": text}
    target = folder / "clip"
    target.mkdir()
    preprocess = {"mean": open_clip.OPENAI_DATASET_MEAN, "std": open_clip.OPENAI_DATASET_STD}
    (target / "open_clip_config.json").write_text(json.dumps({"model_cfg": model, "preprocess_cfg": preprocess}))
    torch.save(CLIP(**model).state_dict(), target / "open_clip_pytorch_model.bin")
    return target


def backbone(folder: Path, name: str = "alex") -> Path:
    """torchvision's file of the LPIPS backbone, whose convolutions alone are read."""
    from torchmetrics.functional.image.lpips import _LPIPS

    from parediff.metrics.lpips import SLICE

    torch.manual_seed(3)
    weights = _LPIPS(net=name, pnet_rand=True).net.state_dict()
    path = folder / f"{name}.pth"
    torch.save({SLICE.sub("features.", key): tensor for key, tensor in weights.items()}, path)
    return path


def classifier(folder: Path) -> Path:
    from parediff.resources import folder_of

    return folder_of("assets://classifier_digits")


MAKERS: dict[str, Callable[[Path], Path]] = {
    "parediff.metrics.inception.Inception": inception,
    "parediff.metrics.dinov2.Dinov2": dinov2,
    "parediff.metrics.clip.ClipScore": clip,
    "parediff.metrics.lpips.PerceptualDistance": backbone,
    "parediff.metrics.extractors.Classifier": classifier,
}
"""By the class that reads them."""


def overrides(node: Any, key: str, folder: Path) -> list[str]:
    """`key.path=…` for whatever below a config node needs weights and names none; reference sets are cut short."""
    found = [f"{key}.count=48"] if "count" in node and "split" in node else []
    if node.get("_target_") in MAKERS and node._get_node("path")._value() in (None, "???"):
        kind = node["_target_"]
        place = folder / kind.rpartition(".")[2]
        known = place / "path.txt"
        if not known.exists():
            place.mkdir(parents=True)
            known.write_text(str(MAKERS[kind](place)))
        found.append(f"{key}.path={known.read_text()}")
    for name, inner in node.items_ex(resolve=False):
        if hasattr(inner, "items_ex"):
            found += overrides(inner, f"{key}.{name}", folder)
    return found
