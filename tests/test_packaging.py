"""The wheel carries everything that a run needs."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built without isolation where hatchling is installed."""
    pytest.importorskip("hatchling")
    target = tmp_path_factory.mktemp("wheel")
    code = f"import hatchling.build as b; print(b.build_wheel({str(target)!r}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return target / done.stdout.strip().splitlines()[-1]


def test_configs_experiments_and_models_ship_inside(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert "parediff/conf/config.yaml" in names
    assert "parediff/experiments/demo/demo.yaml" in names
    assert "parediff/assets/ddpm_digits/unet/diffusion_pytorch_model.safetensors" in names


def test_an_unpacked_wheel_composes_its_own_configs(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path)
    code = (
        "import parediff, parediff.resources as r\n"
        "from parediff.config.compose import Composer\n"
        "composer = Composer('config')\n"
        "assert len(composer.jobs(['experiment=demo'])) == 8\n"
        "print(r.shipped('conf'))"
    )
    environment = {"PYTHONPATH": str(tmp_path), "PATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert str(tmp_path) in done.stdout
