"""Images that somebody has already drawn, in place of a model."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from parediff.data.files import image_files
from parediff.data.pictures import open_file, plain, size_of
from parediff.errors import RequestError
from parediff.validation import check_types, existing_folder

GREY = ("1", "L", "LA", "I", "I;16", "I;16B", "I;16L")


@dataclass(frozen=True)
class StoredImages:
    """All image files below `path`, of one size: a number is about the images as they are, so none is resized.

    `channels` null takes grey images as grey and everything else as RGB (16 bits scaled to 8, transparency over white).
    """

    name: Annotated[str, "what records call it"]
    path: Annotated[str, "a folder of images"]
    channels: Literal[1, 3] | None

    def __post_init__(self) -> None:
        check_types(self)
        first = self.files[0]
        for file in self.files:
            if size_of(file) != size_of(first):
                shown = " and ".join(f"{one.name} ({'x'.join(map(str, size_of(one)))})" for one in (first, file))
                raise RequestError("path", self.path, f"images of one size are accepted: {shown} differ")

    @cached_property
    def files(self) -> list[Path]:
        return image_files(existing_folder(self.path))

    def __len__(self) -> int:
        return len(self.files)

    def image_shape(self) -> tuple[int, int, int]:
        width, height = size_of(self.files[0])
        return self._channels, height, width

    @cached_property
    def _channels(self) -> int:
        if self.channels is not None:
            return self.channels
        return 1 if Image.open(self.files[0]).mode in GREY else 3

    def rows(self, rows: range) -> Tensor:
        """Images uint8 NCHW at some places of the order of their names."""
        pictures = [plain(open_file(self.files[row]), self._channels) for row in rows]
        pixels = np.stack([np.asarray(picture) for picture in pictures])
        return torch.from_numpy(pixels.reshape(len(pixels), *pixels.shape[1:3], -1)).permute(0, 3, 1, 2).contiguous()

    def fingerprint(self) -> dict[str, Any]:
        """The files themselves, in order."""
        content = hashlib.sha256()
        for file in self.files:
            content.update(file.read_bytes())
        return {"images": len(self), "channels": self._channels, "content": content.hexdigest()[:16]}

    def load(self, device: str) -> StoredImages:
        return self

    def outline(self) -> StoredImages:
        """There are no weights."""
        return self

    def copy(self) -> StoredImages:
        """Nothing about images changes."""
        return self
