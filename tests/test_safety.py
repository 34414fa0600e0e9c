"""What no request, study or folder of somebody else's may do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from parediff.config.compose import Composer
from parediff.config.request import build
from parediff.config.schema import checked
from parediff.config.study import from_file
from parediff.errors import RequestError
from parediff.models.classifiers.pretrained import load_classifier

MINE = """
from dataclasses import dataclass
from typing import ClassVar
from parediff.methods.base import Method

@dataclass(frozen=True)
class Mine(Method):
    family: ClassVar[str] = "feature reuse"
    strength: int
"""


@pytest.fixture(scope="module")
def composer() -> Composer:
    return Composer("config")


@pytest.fixture
def somebodys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package whose import leaves a mark."""
    package = tmp_path / "somebodys"
    package.mkdir()
    (package / "__init__.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n")
    (package / "methods.py").write_text(MINE)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path / "ran"


def test_a_class_of_somebody_elses_is_refused_and_nothing_of_it_runs(composer: Composer, somebodys: Path) -> None:
    asked = ["+methods.x._target_=somebodys.methods.Mine", "+methods.x.strength=1"]
    with pytest.raises(RequestError, match=r"^methods\.x\._target_=somebodys\.methods\.Mine: .*allow=\[somebodys\]"):
        build(composer.compose(asked))
    assert not somebodys.exists()


def test_a_class_of_a_package_that_is_named_works_and_follows_the_same_rules(
    composer: Composer, somebodys: Path
) -> None:
    asked = ["+methods.x._target_=somebodys.methods.Mine", "+methods.x.strength=1", "allow=[somebodys]"]
    assert list(build(composer.compose(asked)).methods) == ["x"]
    assert somebodys.exists()
    with pytest.raises(RequestError, match=r"methods\.x\.strength=2\.5: a whole number"):
        build(composer.compose([*asked, "methods.x.strength=2.5"]))
    with pytest.raises(RequestError, match="one method of feature reuse"):
        build(composer.compose([*asked, "method=[frdiff]"]))


def test_naming_a_package_does_not_make_another_run(composer: Composer) -> None:
    named = [build(composer.compose(["method=[]", f"allow={packages}"])).id for packages in ("[]", "[somebodys]")]
    assert named[0] == named[1]


@pytest.mark.parametrize(
    "target",
    ["parediff.cli.main", "parediff.metrics.psnr.PeakSignalToNoise", "parediff.nothing.Here", "os.system", "parediff"],
)
def test_only_a_class_of_the_groups_family_stands_in_a_group(composer: Composer, target: str) -> None:
    config = composer.compose(["method=[ptq]"])
    config.methods.ptq._target_ = target
    with pytest.raises(RequestError, match=r"^methods\.ptq\._target_="):
        checked(config)


def test_a_study_of_somebody_elses_starts_no_launcher_and_no_callback_of_its_own(
    composer: Composer, tmp_path: Path
) -> None:
    file = tmp_path / "theirs.yaml"
    file.write_text("hydra: {callbacks: {x: {_target_: somebodys.Callback}}}\n")
    with pytest.raises(RequestError, match=r"^hydra\._target_=somebodys\.Callback"):
        checked(composer.compose(composer.jobs([from_file(file)])[0]))


def test_an_import_path_of_a_network_needs_its_package_named(composer: Composer) -> None:
    asked = ["model=any_classifier", "model.random_weights=true", "metric=[]"]
    with pytest.raises(RequestError, match=r"^model\.target=somebodys\.Net: .*allow=\[somebodys\]"):
        checked(composer.compose([*asked, "model.target=somebodys.Net"]))
    for target in ("torchvision.models.resnet18", "timm/resnet18", "transformers/vit"):
        checked(composer.compose([*asked, "calibration=real_data", f"model.target={target}"]))
    checked(composer.compose([*asked, "calibration=real_data", "model.target=somebodys.Net", "allow=[somebodys]"]))


def test_a_classifiers_folder_cannot_name_code_to_run(tmp_path: Path) -> None:
    arguments = {"target": "os.system", "arguments": {"command": f"touch {tmp_path / 'ran'}"}, "mean": [0], "std": [1]}
    (tmp_path / "config.json").write_text(json.dumps({"network": "ImportedNet", "arguments": arguments}))
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(RequestError, match=r"path=.*a network of a library, or model\.target=os\.system"):
        load_classifier(tmp_path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "override",
    [
        "tracker.project=hf_abcdefghijklmnopqrstuvwxyz012345",
        "study=ghp_abcdefghijklmnopqrstuvwxyz0123456789",
        "model=pipeline model.path='https://me:secret@example.org/model'",
        "tracker.entity=${oc.env:SOME_API_KEY}",
        "tracker.project=of-0123456789abcdef-here",
    ],
)
def test_a_secret_is_refused_and_not_repeated(
    composer: Composer, override: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_API_KEY", "0123456789abcdef")
    with pytest.raises(RequestError, match="=…: nothing secret") as told:
        checked(composer.compose(override.split()))
    assert not any(part in str(told.value) for part in ("hf_", "ghp_", "me:secret", "0123456789"))


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/tmp/x", "~/x/..", "a//b", ".hidden", "a/./b", ""])
def test_no_name_of_a_study_leaves_its_folder(composer: Composer, name: str) -> None:
    config = composer.compose([])
    config.study = name
    with pytest.raises(RequestError, match=r"^study="):
        checked(config)


def test_a_study_called_by_a_home_stays_in_its_folder(composer: Composer, tmp_path: Path) -> None:
    _, settings = checked(composer.compose([f"runs_dir={tmp_path}", "study='~x'"]))
    assert settings.study_folder.parent == tmp_path
