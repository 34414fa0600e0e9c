"""From image files and PIL images to tensors."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import Dataset

from parediff.errors import RequestError
from parediff.validation import check_types

MODES = {1: "L", 3: "RGB"}


@dataclass(frozen=True)
class Frame:
    """The shape every picture is brought to: `channels` 1 (grey) or 3 (RGB), a square of `size` pixels.

    "centre" scales the shorter side to `size` and cuts the middle out, "stretch" ignores the aspect ratio.
    """

    channels: int
    size: int
    crop: Literal["centre", "stretch"]

    def __post_init__(self) -> None:
        check_types(self)
        if self.channels not in MODES:
            raise RequestError("channels", self.channels, "1 (grey) or 3 (RGB)")
        if self.size < 1:
            raise RequestError("image_size", self.size, "a whole number of pixels, at least 1")

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.channels, self.size, self.size

    def __call__(self, picture: Image.Image) -> Tensor:
        """[channels, size, size] in [-1, 1]."""
        picture = plain(picture, self.channels)
        if self.crop == "centre":
            picture = picture.crop(middle_square(*picture.size))
        if picture.size != (self.size, self.size):
            picture = picture.resize((self.size, self.size), Image.Resampling.LANCZOS)
        pixels = np.asarray(picture, dtype=np.float32).reshape(self.size, self.size, self.channels)
        return torch.from_numpy(pixels / 127.5 - 1).permute(2, 0, 1).contiguous()


def plain(picture: Image.Image, channels: int) -> Image.Image:
    """Grey (1) or RGB (3) with 8 bits a channel: 16 bits are scaled down, what is transparent shows white."""
    if picture.mode.startswith("I;16") or picture.mode == "I":
        levels = np.asarray(picture).astype(np.float64)
        picture = Image.fromarray((levels / 257).round().clip(0, 255).astype(np.uint8))
    if picture.mode == "F":
        raise RequestError("path", getattr(picture, "filename", ""), "images of whole numbers are accepted, not floats")
    if picture.has_transparency_data:
        shown = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", shown.size, "white"), shown)
    return picture.convert(MODES[channels])


def middle_square(width: int, height: int) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of the largest centred square."""
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    return left, top, left + side, top + side


class Pictures(Dataset[tuple[Tensor, int]]):
    """`open_picture(index)` gives PIL images; `indices` says which of them belong here, `labels` is over all."""

    def __init__(
        self,
        open_picture: Callable[[int], Image.Image],
        labels: Sequence[int],
        indices: Sequence[int],
        frame: Frame,
    ) -> None:
        self.open_picture, self.labels, self.indices, self.frame = open_picture, labels, indices, frame

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int) -> tuple[Tensor, int]:
        index = self.indices[position]
        return self.frame(self.open_picture(index)), int(self.labels[index])


UNREADABLE = (
    *(UnidentifiedImageError, OSError, SyntaxError, ValueError),
    *(Image.DecompressionBombError, Image.DecompressionBombWarning),
)


def open_file(path: Any) -> Image.Image:
    """The decoded picture; a file that is none is an error that names it."""
    with readable("path", path), Image.open(path) as picture:
        picture.load()
        return picture


def size_of(path: Any) -> tuple[int, int]:
    """Width and height from the header alone; a file that is no image is an error that names it."""
    with readable("path", path), Image.open(path) as picture:
        return picture.size


@contextmanager
def readable(key: str, value: Any) -> Iterator[None]:
    """Pillow only warns of a file that unpacks to more than it trusts; here it is as unreadable as a broken one."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    except UNREADABLE as error:
        raise RequestError(key, value, f"not a readable image ({' '.join(str(error).split())[:120]})") from error
