"""Images from scikit-learn, folders and the datasets library: one shape, one split per seed, errors in words."""

from __future__ import annotations

import os
import zlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from parediff.data.base import Images, StepBatches
from parediff.data.digits import Digits, split_digits
from parediff.data.folder import Folder
from parediff.data.hub import HubImages
from parediff.data.pictures import Frame
from parediff.data.split import split
from parediff.errors import RequestError

LOADING: dict[str, Any] = {"batch_size": 4, "seed": 0, "workers": 0, "flip": False}
CIFAR10 = Path(os.environ.get("PAREDIFF_CIFAR10", Path(__file__).parents[2] / "shared" / "data" / "cifar10"))


def folder(path: Path | None, **changes: Any) -> Folder:
    options: dict[str, Any] = {"image_size": None, "channels": 3, "crop": "centre", "held_out": 0.25, "split_seed": 0}
    return Folder(path=None if path is None else str(path), **(options | LOADING | changes))


def hub(path: Path | None, **changes: Any) -> HubImages:
    options: dict[str, Any] = {
        "image_column": "image",
        "label_column": "label",
        "train_split": "train",
        "held_out": 0.25,
        "split_seed": 0,
        "image_size": None,
        "channels": 3,
        "crop": "centre",
    }
    return HubImages(path=None if path is None else str(path), **(options | LOADING | changes))


def picture(path: Path, colour: tuple[int, int, int], size: tuple[int, int] = (6, 6)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


@pytest.fixture
def cats_and_dogs(tmp_path: Path) -> Path:
    for index in range(4):
        picture(tmp_path / "cat" / f"{index}.png", (255, 0, 0))
        picture(tmp_path / "dog" / "more" / f"{index}.jpg", (0, 0, 0))
    return tmp_path


@pytest.fixture
def parquet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    pictures = [Image.new("RGB", (6, 6), (10 * index, 0, 0)) for index in range(8)]
    table = datasets.Dataset.from_dict(
        {"image": pictures, "label": [0, 1] * 4, "note": ["x"] * 8},
        features=datasets.Features(
            {
                "image": datasets.Image(),
                "label": datasets.ClassLabel(names=["even", "odd"]),
                "note": datasets.Value("string"),
            }
        ),
    )
    (tmp_path / "set").mkdir()
    table.to_parquet(tmp_path / "set" / "train-00000-of-00001.parquet")
    return tmp_path / "set"


def whole(data: Images) -> tuple[torch.Tensor, list[int]]:
    items = [part[index] for part in (data.train, data.held_out) for index in range(len(part))]  # type: ignore[arg-type]
    return torch.stack([image for image, _ in items]), [int(label) for _, label in items]


def test_digits_are_split_once_and_for_all() -> None:
    (images, labels), (held_images, held_labels) = split_digits(0.2, 0)
    assert (len(images), len(held_images)) == (1438, 359)
    assert images.shape[1:] == (1, 8, 8)
    assert (images.min(), images.max()) == (-1.0, 1.0)
    shares = torch.bincount(held_labels) / (torch.bincount(labels) + torch.bincount(held_labels))
    assert ((shares - 0.2).abs() < 0.01).all()
    again = split_digits(0.2, 0)[1][0]
    assert torch.equal(again, held_images)
    assert not torch.equal(split_digits(0.2, 1)[1][0], held_images)


def test_a_split_is_a_partition_in_proportion() -> None:
    labels = [0] * 90 + [1] * 10
    kept, held = split(labels, 0.2, 3)
    assert sorted(kept + held) == list(range(100))
    assert sum(labels[index] for index in held) == 2
    assert len(held) == 20


def test_something_is_always_held_out_and_something_learned() -> None:
    assert [len(part) for part in split([0, 1], 0.01, 0)] == [1, 1]
    assert [len(part) for part in split([0, 1], 0.99, 0)] == [1, 1]
    with pytest.raises(RequestError, match="at least two images"):
        split([0], 0.5, 0)


@pytest.mark.parametrize("share", [0.0, 1.0, -0.5, "half"])
def test_a_share_is_between_nothing_and_all(share: Any) -> None:
    with pytest.raises(RequestError, match=f"^held_out={share}: "):
        split([0] * 10, share, 0)


def test_batches_are_a_function_of_the_step() -> None:
    """Three passes over 10 images in batches of 4: starting at step 3 gives what a start at 0 gives from there on."""
    all_batches = list(StepBatches(10, 4, 0, range(8)))
    assert list(StepBatches(10, 4, 0, range(3, 8))) == all_batches[3:]
    flat = [index for batch in all_batches for index in batch]
    assert [sorted(flat[start : start + 10]) for start in (0, 10, 20)] == [list(range(10))] * 3
    assert flat[:10] != flat[10:20]
    assert list(StepBatches(10, 4, 1, range(8))) != all_batches, "another seed, another order"


def test_mirrored_images_are_a_function_of_seed_and_step() -> None:
    def mirrored(seed: int, step: int) -> list[bool]:
        data = Digits(held_out=0.2, split_seed=0, batch_size=16, seed=seed, workers=0, flip=True)
        data.trainer = SimpleNamespace(training=True, global_step=step, global_rank=0)  # type: ignore[assignment]
        images = torch.tensor([0.0, 1.0]).expand(64, 1, 1, 2)
        return (data.on_after_batch_transfer((images, None), 0)[0][:, 0, 0, 0] == 1).tolist()

    assert 16 < sum(mirrored(0, 3)) < 48
    assert mirrored(0, 3) == mirrored(0, 3)
    assert mirrored(0, 3) != mirrored(1, 3)
    assert mirrored(0, 3) != mirrored(0, 4)


def test_sub_folders_name_the_classes(cats_and_dogs: Path) -> None:
    data = folder(cats_and_dogs)
    images, labels = whole(data)
    assert (data.classes, data.image_shape) == (["cat", "dog"], (3, 6, 6))
    assert (len(data.train), len(data.held_out)) == (6, 2)  # type: ignore[arg-type]
    assert sorted(labels) == [0] * 4 + [1] * 4
    for image, label in zip(images, labels, strict=True):
        red = -1.0 if label else 1.0
        torch.testing.assert_close(image.mean((1, 2)), torch.tensor([red, -1.0, -1.0]), atol=0.02, rtol=0)


def test_loose_files_make_one_class_and_may_be_made_grey_and_small(tmp_path: Path) -> None:
    for index in range(4):
        picture(tmp_path / f"{index}.png", (128, 128, 128), size=(8 + index, 12))
    data = folder(tmp_path, channels=1, image_size=4)
    images, labels = whole(data)
    assert (len(data.classes), data.image_shape, set(labels)) == (1, (1, 4, 4), {0})
    torch.testing.assert_close(images, torch.full((4, 1, 4, 4), 128 / 127.5 - 1))


def test_the_centre_is_cut_and_stretching_keeps_all() -> None:
    pixels = np.zeros((2, 6, 3), dtype=np.uint8)
    pixels[:, :2] = 255
    wide = Image.fromarray(pixels)
    assert torch.equal(Frame(channels=1, size=2, crop="centre")(wide), torch.full((1, 2, 2), -1.0))
    assert Frame(channels=1, size=2, crop="stretch")(wide).max() > 0


@pytest.mark.parametrize(("key", "value"), [("channels", 2), ("crop", "left"), ("size", 0)])
def test_a_wrong_frame_is_named(key: str, value: Any) -> None:
    options: dict[str, Any] = {"channels": 3, "size": 8, "crop": "centre"}
    with pytest.raises(RequestError):
        Frame(**(options | {key: value}))


def test_a_missing_folder_an_empty_one_and_none_at_all_are_named(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"^path=null: "):
        folder(None)
    with pytest.raises(RequestError, match=r"^path=.*nowhere: no such folder"):
        folder(tmp_path / "nowhere")
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / ".hidden.png").write_text("no image")
    with pytest.raises(RequestError, match="there are none"):
        folder(tmp_path)


def test_an_unreadable_image_is_named_before_training(cats_and_dogs: Path) -> None:
    (cats_and_dogs / "cat" / "broken.png").write_bytes(b"not a picture")
    with pytest.raises(RequestError, match=r"broken\.png: not a readable image"):
        folder(cats_and_dogs)


def test_a_picture_cut_short_is_named_when_it_is_read(cats_and_dogs: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    file = cats_and_dogs / "cat" / "cut.png"
    Image.fromarray(noise).save(file)
    file.write_bytes(file.read_bytes()[:4000])
    with pytest.raises(RequestError, match=r"cut\.png: not a readable image"):
        whole(folder(cats_and_dogs, image_size=6))


@pytest.mark.parametrize("side", [10_000, 20_000])
def test_a_picture_that_unpacks_to_more_than_is_trusted_is_named(cats_and_dogs: Path, side: int) -> None:
    """A file of a few hundred bytes; Pillow would only warn of the first."""
    header = Image.new("L", (1, 1))
    file = cats_and_dogs / "cat" / "bomb.png"
    header.save(file)
    said = file.read_bytes()
    size = side.to_bytes(4, "big") * 2
    chunk = b"IHDR" + size + said[24:29]
    file.write_bytes(said[:12] + chunk + zlib.crc32(chunk).to_bytes(4, "big") + said[33:])
    with pytest.raises(RequestError, match=r"bomb\.png: not a readable image .*decompression bomb"):
        folder(cats_and_dogs, image_size=6)


@pytest.mark.parametrize(("leads_to", "said"), [("..", "leaves it"), ("nowhere.png", "leads nowhere")])
def test_a_link_that_leaves_the_folder_is_named(cats_and_dogs: Path, leads_to: str, said: str) -> None:
    inside, outside = cats_and_dogs / "cat", cats_and_dogs.parent / "private.png"
    picture(outside, (0, 0, 0))
    (inside / "again.png").symlink_to("0.png")
    assert len(folder(cats_and_dogs).classes) == 2
    (inside / "link.png").symlink_to(outside if leads_to == ".." else leads_to)
    with pytest.raises(RequestError, match=rf"link\.png: .*{said}"):
        folder(cats_and_dogs)
    (inside / "link.png").unlink()
    (cats_and_dogs / "all").symlink_to(cats_and_dogs.parent)
    with pytest.raises(RequestError, match=r"all: .*leaves it"):
        folder(cats_and_dogs)


def test_images_of_several_sizes_need_a_size(cats_and_dogs: Path) -> None:
    picture(cats_and_dogs / "cat" / "large.png", (0, 0, 0), size=(9, 9))
    with pytest.raises(RequestError, match=r"^image_size=null: "):
        folder(cats_and_dogs)
    assert folder(cats_and_dogs, image_size=5).image_shape == (3, 5, 5)


def test_a_folder_of_parquet_is_a_data_set(parquet: Path) -> None:
    data = hub(parquet)
    images, labels = whole(data)
    assert (data.classes, data.image_shape, sorted(labels)) == (["even", "odd"], (3, 6, 6), [0] * 4 + [1] * 4)
    assert images.min() == -1.0
    assert images.max() == pytest.approx(70 / 127.5 - 1)
    assert hub(parquet, label_column=None).classes == [""]
    assert hub(parquet, label_column="note").classes == ["x"]


@pytest.mark.parametrize(
    ("key", "value", "accepted"),
    [
        ("image_column", "img", "image, label, note"),
        ("label_column", "class", "image, label, note"),
        ("train_split", "training", "train"),
        ("held_out", "test", "train"),
        ("image_column", "note", "a column of images"),
    ],
)
def test_a_wrong_column_or_split_is_named(parquet: Path, key: str, value: str, accepted: str) -> None:
    with pytest.raises(RequestError, match=f"^{key}={value}: .*{accepted}"):
        hub(parquet, **{key: value})


def test_a_broken_picture_within_a_file_of_parquet_is_named(parquet: Path) -> None:
    import datasets

    data = datasets.load_dataset("parquet", data_files=str(next(parquet.iterdir())), split="train")
    raw = data.cast_column("image", datasets.Image(decode=False))
    rows = [row["image"] if index != 3 else {"bytes": b"none", "path": None} for index, row in enumerate(raw)]
    broken = raw.remove_columns("image").add_column("image", rows)
    broken.cast_column("image", datasets.Image()).to_parquet(parquet / "train-00000-of-00001.parquet")
    with pytest.raises(RequestError, match=r"^image_column=image\[3\]: not a readable image"):
        whole(hub(parquet))


def test_a_missing_or_foreign_set_is_named(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"^path=null: "):
        hub(None)
    with pytest.raises(RequestError, match="nowhere: no such folder"):
        hub(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(RequestError, match="empty: "):
        hub(tmp_path / "empty")


@pytest.mark.parametrize(("key", "value"), [("batch_size", 0), ("workers", -1)])
def test_a_wrong_loading_option_is_named(key: str, value: int) -> None:
    with pytest.raises(RequestError, match=f"^{key}={value}: "):
        Digits(held_out=0.2, split_seed=0, **(LOADING | {key: value}))


@pytest.mark.slow
@pytest.mark.skipif(not CIFAR10.is_dir(), reason="CIFAR-10 is not here; PAREDIFF_CIFAR10 says where it is")
def test_cifar10_is_read_from_a_local_folder() -> None:
    data = hub(CIFAR10, image_column="img", held_out="test")
    assert (len(data.train), len(data.held_out), data.image_shape) == (50000, 10000, (3, 32, 32))  # type: ignore[arg-type]
    assert data.held_out[0][0].shape == (3, 32, 32)
    assert data.classes[0] == "airplane"
