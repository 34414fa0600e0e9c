"""Any set of the `datasets` library: a local folder of parquet files, or a name on the hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from PIL import Image
from torch.utils.data import Dataset

from parediff.data.base import Images
from parediff.data.pictures import Frame, Pictures, readable
from parediff.data.split import HeldOut, SplitSeed, split
from parediff.errors import RequestError, nearest
from parediff.validation import Count


class HubImages(Images):
    """Images and labels by column name; `held_out` is the name of a split, or a share of the training split.

    `image_size` null takes the first image's; `label_column` null makes one class of all.
    """

    def __init__(
        self,
        *,
        path: Annotated[str, "a folder of parquet files, or a name on the hub"] | None,
        image_column: Annotated[str, "where the images stand"],
        label_column: Annotated[str, "where the classes stand"] | None,
        train_split: Annotated[str, "what is learned from"],
        held_out: HeldOut | str,
        split_seed: SplitSeed,
        image_size: Annotated[Count, "pixels"] | None,
        channels: Annotated[Literal[1, 3], "1: grey, 3: RGB"],
        crop: Literal["centre", "stretch"],
        **loading: Any,
    ) -> None:
        super().__init__(**loading)
        splits = load_splits(path)
        table = chosen(splits, "train_split", train_split)
        self.name = Path(str(path)).name
        self._read = _Columns(table, image_column, label_column)
        self.classes = self._read.classes
        frame = Frame(channels=channels, size=image_size or self._read.side(), crop=crop)
        self.image_shape = frame.shape
        if isinstance(held_out, str):
            held = _Columns(chosen(splits, "held_out", held_out), image_column, label_column)
            self._train, self._held_out = self._read.all(frame), held.all(frame)
        else:
            kept, rest = split(self._read.labels, held_out, split_seed)
            self._train, self._held_out = self._read.some(kept, frame), self._read.some(rest, frame)

    @property
    def train(self) -> Dataset[Any]:
        return self._train

    @property
    def held_out(self) -> Dataset[Any]:
        return self._held_out


class _Columns:
    """One split, seen through its two columns."""

    def __init__(self, table: Any, image_column: str, label_column: str | None) -> None:
        self.table, self.image_column = table, image_column
        for key, column in (("image_column", image_column), ("label_column", label_column)):
            if column is not None and column not in table.column_names:
                raise RequestError(key, column, f"a column of {', '.join(table.column_names)}")
        names = getattr(table.features[label_column], "names", None) if label_column else [""]
        values = list(table[label_column]) if label_column else [0] * len(table)
        self.classes = [str(name) for name in (names or sorted(set(values)))]
        self.labels = values if names else [sorted(set(values)).index(value) for value in values]

    def __call__(self, index: int) -> Image.Image:
        with readable("image_column", f"{self.image_column}[{index}]"):
            picture = self.table[index][self.image_column]
        if not isinstance(picture, Image.Image):
            raise RequestError("image_column", self.image_column, f"a column of images, row {index} is none")
        return picture

    def side(self) -> int:
        width, height = self(0).size
        if width != height:
            raise RequestError("image_size", "null", f"a size in pixels: the first image is {width}x{height}")
        return width

    def all(self, frame: Frame) -> Pictures:
        return self.some(range(len(self.table)), frame)

    def some(self, indices: Any, frame: Frame) -> Pictures:
        return Pictures(self, self.labels, indices, frame)


def load_splits(path: str | None) -> Any:
    """The dataset dictionary behind a local folder or a hub name."""
    import datasets

    if path is None:
        raise RequestError("path", "null", "data.path=FOLDER (parquet files) or the name of a set on the hub")
    local = Path(path).expanduser()
    looks_local = path.startswith((".", "/", "~")) or path.count("/") > 1
    if looks_local and not local.is_dir():
        raise RequestError("path", path, "no such folder")
    try:
        return datasets.load_dataset(str(local) if local.is_dir() else path)
    except (OSError, ValueError, ConnectionError, datasets.exceptions.DatasetsError) as error:
        raise RequestError("path", path, f"no images set can be read there ({_line(error)})") from error


def chosen(splits: Any, key: str, name: str) -> Any:
    if name not in splits:
        raise RequestError(key, name, f"one of the splits {', '.join(splits)}.{nearest(name, splits)}")
    return splits[name]


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
