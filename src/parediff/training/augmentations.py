"""Changes of images that leave what they show: by name, on a batch [N, C, H, W] of any range."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from parediff.validation import require


def flip(x: Tensor, rng: torch.Generator) -> Tensor:
    return x.flip(-1)


def resized_crop(x: Tensor, rng: torch.Generator) -> Tensor:
    """One square of 50 to 100 % of the area for the whole batch, scaled back."""
    height, width = x.shape[-2:]
    side = (0.5 + 0.5 * float(torch.rand((), generator=rng))) ** 0.5
    tall, wide = max(1, round(side * height)), max(1, round(side * width))
    top = int(torch.randint(height - tall + 1, (), generator=rng))
    left = int(torch.randint(width - wide + 1, (), generator=rng))
    crop = x[..., top : top + tall, left : left + wide]
    return F.interpolate(crop, size=(height, width), mode="bilinear", align_corners=False)


def jitter(x: Tensor, rng: torch.Generator) -> Tensor:
    """Brightness and contrast of each image by up to 0.4."""
    change = 0.8 * torch.rand(2, len(x), 1, 1, 1, generator=rng).to(x) - 0.4
    mean = x.mean((1, 2, 3), keepdim=True)
    return (x - mean) * (1 + change[0]) + mean + change[1]


def blur(x: Tensor, rng: torch.Generator) -> Tensor:
    """A 3x3 Gaussian, the border repeated."""
    line = torch.tensor([0.25, 0.5, 0.25], device=x.device, dtype=x.dtype)
    kernel = (line[:, None] * line).expand(x.shape[1], 1, 3, 3)
    return F.conv2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), kernel, groups=x.shape[1])


def noise(x: Tensor, rng: torch.Generator) -> Tensor:
    return x + 0.1 * torch.randn(x.shape, generator=rng).to(x)


def cutout(x: Tensor, rng: torch.Generator) -> Tensor:
    """A rectangle of a quarter of the area is 0, the same in the whole batch."""
    height, width = x.shape[-2:]
    tall, wide = max(1, height // 2), max(1, width // 2)
    top = int(torch.randint(height - tall + 1, (), generator=rng))
    left = int(torch.randint(width - wide + 1, (), generator=rng))
    mask = torch.ones_like(x[:1, :1])
    mask[..., top : top + tall, left : left + wide] = 0
    return x * mask


def mirrored(x: Tensor, tall: int, wide: int) -> Tensor:
    """Padded on every side by its own mirror, or by its border where the mirror would be larger than the image."""
    mode = "reflect" if tall < x.shape[-2] and wide < x.shape[-1] else "replicate"
    return F.pad(x, (wide, wide, tall, tall), mode=mode)


def shift(x: Tensor, rng: torch.Generator) -> Tensor:
    """Each image by up to an eighth of its sides, its own mirror coming in at the border."""
    height, width = x.shape[-2:]
    tall, wide = max(1, height // 8), max(1, width // 8)
    padded = mirrored(x, tall, wide)
    top, left = (torch.randint(2 * most + 1, (len(x), 1), generator=rng).to(x.device) for most in (tall, wide))
    rows, columns = (torch.arange(side, device=x.device) + start for side, start in ((height, top), (width, left)))
    images = torch.arange(len(x), device=x.device)[:, None, None]
    return padded.permute(0, 2, 3, 1)[images, rows[:, :, None], columns[:, None]].permute(0, 3, 1, 2)


AUGMENTATIONS: dict[str, Callable[[Tensor, torch.Generator], Tensor]] = {
    "flip": flip,
    "resized_crop": resized_crop,
    "jitter": jitter,
    "blur": blur,
    "noise": noise,
    "cutout": cutout,
    "shift": shift,
}
"""What RIS draws one of for each step, and fine-tuning goes through by chance."""


def require_known(key: str, names: Sequence[str], least: int = 0) -> None:
    """Raise RequestError for a name that stands for nothing here, and for too few of them."""
    known = len(names) >= least and all(name in AUGMENTATIONS for name in names)
    require(known, key, list(names), f"some of {', '.join(AUGMENTATIONS)}")


def each_by_chance(names: Sequence[str], x: Tensor, rng: torch.Generator) -> Tensor:
    """All of them one after the other, each on a random half of the images."""
    for name in names:
        chosen = torch.rand(len(x), 1, 1, 1, generator=rng) < 0.5
        x = torch.where(chosen.to(x.device), AUGMENTATIONS[name](x, rng), x)
    return x
