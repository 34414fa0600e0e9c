"""A folder of image files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from PIL import Image
from torch.utils.data import Dataset

from parediff.data.base import Images
from parediff.data.files import image_files
from parediff.data.pictures import Frame, Pictures, open_file, size_of
from parediff.data.split import HeldOut, SplitSeed, split
from parediff.errors import RequestError
from parediff.validation import Count, existing_folder


class Folder(Images):
    """Any image files below `path`; the first level of sub-folders names the classes, loose files make one class.

    `image_size` null takes the first image's, and then all must have it, squares of one size.
    """

    def __init__(
        self,
        *,
        path: Annotated[str, "the folder"] | None,
        image_size: Annotated[Count, "pixels"] | None,
        channels: Annotated[Literal[1, 3], "1: grey, 3: RGB"],
        crop: Literal["centre", "stretch"],
        held_out: HeldOut,
        split_seed: SplitSeed,
        **loading: Any,
    ) -> None:
        super().__init__(**loading)
        if path is None:
            raise RequestError("path", "null", "data.path=FOLDER says where the images are")
        root = existing_folder(path)
        self.name = root.name
        files = image_files(root)
        groups = [file.relative_to(root).parts[0] if len(file.relative_to(root).parts) > 1 else "" for file in files]
        self.classes = sorted(set(groups))
        labels = [self.classes.index(group) for group in groups]
        frame = Frame(channels=channels, size=common_size(files, image_size), crop=crop)
        self.image_shape = frame.shape
        kept, held = split(labels, held_out, split_seed)
        self._train, self._held_out = (Pictures(_Opener(files), labels, part, frame) for part in (kept, held))

    @property
    def train(self) -> Dataset[Any]:
        return self._train

    @property
    def held_out(self) -> Dataset[Any]:
        return self._held_out


class _Opener:
    def __init__(self, files: list[Path]) -> None:
        self.files = files

    def __call__(self, index: int) -> Image.Image:
        return open_file(self.files[index])


def common_size(files: list[Path], image_size: int | None) -> int:
    """The side of the square all images are brought to; every header is read, so that a broken file shows now."""
    sizes = {file: size_of(file) for file in files}
    if image_size is not None:
        return image_size
    (width, height), first = sizes[files[0]], files[0]
    for file, size in sizes.items():
        if size != (width, height):
            raise RequestError("image_size", "null", f"a size in pixels: {first.name} and {file.name} differ")
    if width != height:
        raise RequestError("image_size", "null", f"a size in pixels: the images are {width}x{height}, not square")
    return width
