"""One set of pins for everybody, with versions only."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).parent.parent


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return {normal(line.split("==")[0]): line.split("==")[1] for line in lines if line.strip()}


def direct() -> set[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    return {normal(re.match(r"[\w.-]+", entry).group()) for entry in named}  # type: ignore[union-attr]


def conda() -> list[str]:
    dependencies = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    return next(entry["pip"] for entry in dependencies if isinstance(entry, dict))


def test_every_direct_dependency_is_pinned() -> None:
    assert direct() <= pins().keys()


def test_conda_users_get_the_same_versions() -> None:
    listed = dict(entry.split("==") for entry in conda() if "==" in entry)
    assert {normal(name): version for name, version in listed.items()} == {name: pins()[name] for name in direct()}
    assert "-c constraints.txt" in conda()


def test_constraints_hold_exact_versions_and_no_addresses() -> None:
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        assert re.fullmatch(r"[\w.-]+==[\w.!]+", line), line


def test_torch_is_the_standard_build_and_torchvision_matches_it() -> None:
    import torch
    from torchvision.ops import nms

    assert "+cpu" not in torch.__version__
    assert nms(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.ones(1), 0.5).tolist() == [0]
    assert "2.13.0" not in pins()["torch"]


def test_continuous_integration_runs_the_test_command_of_the_readme() -> None:
    assert "make test" in (ROOT / ".ci" / "run").read_text()
    assert "make test" in (ROOT / "README.md").read_text()


def test_no_commit_names_a_registry_or_a_path_of_a_machine() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split()
    pattern = re.compile(r"(?<![\w.$}])/(home|root|work)/\w|extra-index-url|index-url\s*=|https?://\S+/simple\b")
    for name in tracked:
        path = ROOT / name
        if path.suffix in {".py", ".yaml", ".yml", ".md", ".toml", ".txt", ".sh", ".ipynb"} and path.exists():
            found = pattern.search(path.read_text(errors="ignore"))
            assert found is None or path.name == Path(__file__).name, f"{name}: {found}"
