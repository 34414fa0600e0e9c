"""What a model is loaded from, and what is refused before anything is loaded."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch
from diffusers import DDPMPipeline

import tiny
from parediff.errors import RequestError
from parediff.models.diffusion.load import PretrainedPipeline, shape_of_images


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny.unconditional_model().pipeline.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def weights(folder: Path) -> Path:
    return folder / "unet" / "diffusion_pytorch_model.safetensors"


def test_a_local_folder_is_the_model_that_was_saved(folder: Path) -> None:
    loaded = PretrainedPipeline("m", str(folder)).load("cpu")
    expected = tiny.unconditional_model().generate([1], None, tiny.DDIM)
    assert torch.allclose(loaded.generate([1], None, tiny.DDIM), expected, atol=1e-5)
    assert isinstance(loaded.pipeline, DDPMPipeline)


def test_a_folder_that_is_no_pipeline_is_named(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"no model_index\.json"):
        PretrainedPipeline("m", str(tmp_path))
    with pytest.raises(RequestError, match="does not exist"):
        PretrainedPipeline("m", str(tmp_path / "absent" / "folder"))


def test_an_index_of_something_else_is_named(folder: Path) -> None:
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "Nonsense"}))
    with pytest.raises(RequestError, match="'Nonsense'"):
        PretrainedPipeline("m", str(folder))
    (folder / "model_index.json").write_text("{")
    with pytest.raises(RequestError, match="not JSON"):
        PretrainedPipeline("m", str(folder))


def test_a_truncated_file_is_found_before_loading(folder: Path) -> None:
    content = weights(folder).read_bytes()
    weights(folder).write_bytes(content[: len(content) // 2])
    with pytest.raises(RequestError, match="not a whole safetensors file"):
        PretrainedPipeline("m", str(folder))


class Bomb:
    """Pickles to something that writes a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.write_text, (self.path, "executed")


@pytest.mark.parametrize("name", ["diffusion_pytorch_model.bin", "diffusion_pytorch_model.safetensors"])
def test_a_pickle_is_refused_and_nothing_of_it_is_executed(folder: Path, tmp_path: Path, name: str) -> None:
    weights(folder).unlink()
    trace = tmp_path / "trace"
    (folder / "unet" / name).write_bytes(pickle.dumps(Bomb(trace)))
    with pytest.raises(RequestError, match="safetensors"):
        PretrainedPipeline("m", str(folder)).load("cpu")
    assert not trace.exists()


def test_the_fingerprint_follows_the_weights(folder: Path) -> None:
    before = PretrainedPipeline("m", str(folder)).fingerprint()
    assert PretrainedPipeline("m", str(folder)).fingerprint() == before
    content = bytearray(weights(folder).read_bytes())
    content[-1] ^= 1
    weights(folder).write_bytes(bytes(content))
    assert PretrainedPipeline("m", str(folder)).fingerprint() != before


def test_the_shape_of_images_is_read_without_loading(tmp_path: Path, folder: Path) -> None:
    assert shape_of_images(folder) == (1, 8, 8)
    tiny.dit_model().pipeline.save_pretrained(tmp_path / "dit")
    assert shape_of_images(tmp_path / "dit") == (3, 16, 16)


def test_unknown_precision_is_refused(folder: Path) -> None:
    with pytest.raises(RequestError, match="dtype=int3"):
        PretrainedPipeline("m", str(folder), dtype="int3")


def test_half_precision_runs(folder: Path) -> None:
    images = PretrainedPipeline("m", str(folder), dtype="bfloat16").load("cpu").generate([1], None, tiny.DDIM)
    assert images.dtype == torch.float32
    assert torch.isfinite(images).all()
