"""`parediff evaluate`: what is scored on its own, and folders that are not what they should be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from parediff.cli import main
from parediff.config.compose import Composer
from parediff.data.digits import split_digits
from parediff.errors import RequestError
from parediff.models.images import StoredImages
from parediff.results import record

DIGITS = Path(__file__).parent.parent / "src" / "parediff" / "assets" / "ddpm_digits"


def stored(folder: Path, channels: int | None = None) -> StoredImages:
    return StoredImages(name="images", path=str(folder), channels=channels)


def save(pixels: Any, path: Path, mode: str | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels), mode=mode).save(path)


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    """72 real digits as PNG files."""
    images, _ = split_digits(0.2, 0)[1]
    for index, image in enumerate(((images[:72, 0] + 1) * 127.5).round().to(torch.uint8)):
        save(image.numpy(), tmp_path / "images" / f"{index:03}.png")
    return tmp_path / "images"


def score(tmp_path: Path, *arguments: str) -> record.Record:
    assert main(["evaluate", *arguments, "tracker=none", f"runs_dir={tmp_path / 'runs'}"]) == 0
    (found,) = record.find([tmp_path / "runs"]).records
    return found


def test_a_folder_of_images_is_scored_as_it_lies(digits: Path, tmp_path: Path, capsys: Any) -> None:
    found = score(tmp_path, str(digits), "metric=[fd_digits]", "data=digits", "workload.blocks=2")
    assert (found.model, found.status, found.workload) == ("images", "finished", {"count": 72})
    assert 0 < found.quality["fd_digits"] < 5
    assert found.stderr["fd_digits"] > 0
    assert found.cost == {}
    assert capsys.readouterr().out.strip().endswith("record.json")


def test_too_few_images_for_the_features_are_told(digits: Path, tmp_path: Path) -> None:
    for file in sorted(digits.iterdir())[20:]:
        file.unlink()
    found = score(tmp_path, str(digits), "metric=[fd_digits]", "data=digits")
    (told,) = found.remarks["fd_digits"]
    assert told.startswith("20 images for 32 features")


def test_a_pipeline_is_scored_with_its_costs(tmp_path: Path) -> None:
    found = score(
        tmp_path,
        str(DIGITS),
        "metric=[fd_digits]",
        "data=digits",
        "workload.count=8",
        "sampler.steps=2",
        "cost=[nfe,macs]",
    )
    assert found.cost["nfe"] == 2
    assert found.quality["fd_digits"] > 0


@pytest.mark.parametrize("missing", ["nowhere", "empty"])
def test_a_path_with_nothing_to_score_is_a_wrong_request(missing: str, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "empty").mkdir()
    assert main(["evaluate", str(tmp_path / missing)]) == 2
    assert missing in capsys.readouterr().err


def test_images_of_another_size_than_the_real_ones_are_refused(digits: Path, tmp_path: Path, capsys: Any) -> None:
    for file in digits.iterdir():
        save(np.zeros((16, 16), np.uint8), file)
    assert main(["evaluate", str(digits), "metric=[fd_digits]", "data=digits", "tracker=none"]) == 2
    assert "1x16x16" in capsys.readouterr().err


def test_grey_colour_transparent_and_16_bit_images_have_the_levels_one_sees(tmp_path: Path) -> None:
    grey = np.array([[0, 128]], np.uint8).repeat(2, 0)
    save(grey, tmp_path / "a" / "grey.png")
    save((grey.astype(np.uint16) * 257), tmp_path / "a" / "sixteen.png")
    clear = np.zeros((2, 2, 4), np.uint8)
    clear[:, 1] = 128, 128, 128, 255
    save(clear, tmp_path / "b" / "clear.png")
    own = stored(tmp_path / "a")
    assert own.image_shape() == (1, 2, 2)
    assert own.rows(range(2))[:, 0, 0].tolist() == [[0, 128], [0, 128]]
    seen = stored(tmp_path / "b").rows(range(1))
    assert seen.shape == (1, 3, 2, 2)
    assert seen[0, :, 0].tolist() == [[255, 128]] * 3  # what is transparent shows white


def test_images_of_several_sizes_are_named(tmp_path: Path) -> None:
    save(np.zeros((2, 2), np.uint8), tmp_path / "a.png")
    save(np.zeros((2, 3), np.uint8), tmp_path / "b.png")
    with pytest.raises(RequestError, match=r"a\.png \(2x2\) and b\.png \(3x2\) differ"):
        stored(tmp_path)


def test_a_corrupt_file_and_one_that_unpacks_to_too_much_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(np.zeros((40, 40), np.uint8), tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(RequestError, match=r"bomb\.png: not a readable image .*decompression bomb"):
        stored(tmp_path)
    (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    with pytest.raises(RequestError, match=r"bomb\.png: not a readable image"):
        stored(tmp_path)


def test_a_network_of_nan_weights_ends_failed_with_the_layer_on_record(tmp_path: Path, capsys: Any) -> None:
    import shutil

    from safetensors.torch import load_file, save_file

    shutil.copytree(DIGITS, tmp_path / "model")
    file = tmp_path / "model" / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    weights["conv_out.bias"] = torch.full_like(weights["conv_out.bias"], float("nan"))
    save_file(weights, file)
    asked = ["model=ddpm_digits", f"model.path={tmp_path / 'model'}", "metric=[psnr]", "tracker=none"]
    few = [
        "workload.count=2",
        "workload.blocks=1",
        "sampler.steps=2",
        "reference.steps=2",
        f"runs_dir={tmp_path / 'runs'}",
    ]
    assert main(["run", *asked, *few]) == 1
    (found,) = record.find([tmp_path / "runs"]).records
    assert found.status == "failed"
    assert "step 0" in str(found.error)
    assert "layer conv_out: its bias" in str(found.error)
    assert json.loads((found.folder / "record.json").read_text())["fidelity"] == {}


def test_a_trained_model_knows_its_data_unless_others_are_named(tmp_path: Path) -> None:
    own = {"_target_": "parediff.data.folder.Folder", "path": "photos", "image_size": 32, "flip": True}
    (tmp_path / "config.yaml").write_text(json.dumps({"data": own}))
    composer, asked = Composer("config"), ["model=unet", f"model.path={tmp_path}", "metric=[fd]"]
    config = composer.compose(asked)
    assert config.data == own
    assert config.metrics.fd.reference.data == own
    assert composer.compose([*asked, "data=digits"]).data["_target_"].endswith("digits.Digits")
    assert "data" not in composer.compose(["model=unet", "metric=[psnr]"])


def test_an_extractor_of_own_images_is_trained_and_used_by_one_line(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    for level, name in ((40, "dark"), (200, "light")):
        for index in range(12):
            save(random.integers(level, level + 40, (8, 8, 3), np.uint8), tmp_path / "own" / name / f"{index}.png")
    data = ["data=folder", "data.path=own", "data.workers=0", "data.batch_size=8"]
    short = ["trainer.max_steps=4", "trainer.progress=false", "model.arguments.channels=[8,8]", "tracker=none"]
    assert main(["train", "model=classifier", *data, *short, "model.arguments.strides=[1,2]", "runs_dir=runs"]) == 0
    made = tmp_path / "runs" / "train" / "classifier" / "model"
    told = json.loads((made / "config.json").read_text())
    assert told["trained_on"] == {"name": "own", "image_shape": [3, 8, 8], "classes": 2}
    assert told["arguments"]["in_channels"] == 3
    asked = ["metric=[fd]", *data, f"metrics.fd.extractor.path={made}", "metrics.fd.reference.split=all"]
    found = score(tmp_path / "scored", str(tmp_path / "own"), *asked)
    assert list(found.quality) == ["fd_own_own"]
    assert found.quality["fd_own_own"] == pytest.approx(0, abs=1e-3)
