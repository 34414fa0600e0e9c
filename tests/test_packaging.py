"""The wheel carries everything that a run needs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from wheels import built

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(ROOT, tmp_path_factory.mktemp("wheel"))


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


def test_types_suites_and_licences_ship_inside(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert "parediff/py.typed" in names
    assert "parediff/testing/test_every_method.py" in names
    weights = [name for name in names if name.endswith(".safetensors")]
    assert weights
    for name in weights:
        folder = "/".join(name.split("/")[:3])
        assert {f"{folder}/LICENSE", f"{folder}/README.md"} <= names


def test_a_source_distribution_holds_what_a_wheel_is_built_from(tmp_path: Path) -> None:
    with tarfile.open(built(ROOT, tmp_path, "sdist")) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = ("conf/config.yaml", "docs/index.md", "mkdocs.yml", "examples/plugin/pyproject.toml", "CITATION.cff")
    assert set(wanted) <= names
    assert not any(name.startswith(("runs/", ".venv/", "build/")) for name in names)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("python", "wanted"),
    [
        ("3.12", ["--constraint", str(ROOT / "constraints.txt")]),
        ("3.13", ["--constraint", str(ROOT / "constraints.txt")]),
        ("3.11", ["--resolution", "lowest-direct"]),
        ("3.11", ["--resolution", "highest"]),
    ],
    ids=["3.12", "3.13", "lowest", "today"],
)
def test_an_installed_wheel_runs_and_passes_its_suites(
    wheel: Path, python: str, wanted: list[str], tmp_path: Path
) -> None:
    """On each Python, and with the lowest declared and today's dependencies; gigabytes are fetched."""
    uv = shutil.which("uv") or pytest.skip("no uv")
    place = tmp_path / "env"
    made = subprocess.run([uv, "venv", "--python", python, place], capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip(f"no Python {python}: {made.stderr.strip()[:200]}")
    program = place / "bin" / "python"
    subprocess.run([uv, "pip", "install", "--python", program, *wanted, wheel, "pytest>=9"], check=True)
    asked = ["method=[ptq]", "sampler.steps=3", "workload.count=8", "workload.blocks=2", "tracker=none"]
    suites = ["-q", "--pyargs", "parediff.testing", "-k", "deepcache or psnr or macs or lsq"]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    for command in (["parediff", "run", *asked], ["pytest", *suites]):
        subprocess.run([program, "-m", *command], cwd=tmp_path, env=environment, check=True)


@pytest.mark.slow
def test_conda_users_environment_is_resolved() -> None:
    solver = shutil.which("micromamba") or shutil.which("mamba") or shutil.which("conda")
    if solver is None:
        pytest.skip("no micromamba, mamba or conda")
    command = [solver, "env", "create", "--dry-run", "--file", str(ROOT / "environment.yml")]
    assert subprocess.run(command, check=False).returncode == 0
