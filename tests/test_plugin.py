"""A package of one's own, installed from its template; a folder of configs; both beside what ships."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import wheels
from parediff.cli import main
from parediff.config.catalogue import catalogue, files, targets
from parediff.config.compose import Composer
from parediff.config.request import build
from parediff.config.show import searchpath_in
from parediff.config.sources import installed, searching, sources
from parediff.errors import RequestError

ROOT = Path(__file__).parent.parent
TEMPLATE = ROOT / "examples" / "plugin"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the template is installed."""
    return wheels.installed(TEMPLATE, tmp_path_factory.mktemp("site"))


@pytest.fixture
def present(site: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """conf/ with a method whose class lies beside it."""
    (tmp_path / "conf" / "method").mkdir(parents=True)
    text = (TEMPLATE / "src" / "my_methods" / "half.py").read_text(encoding="utf-8")
    (tmp_path / "beside_it.py").write_text(text, encoding="utf-8")
    yaml = "# @package methods.fold\n# what lies beside | no paper\n_target_: beside_it.Half\ndtype: bfloat16\n"
    (tmp_path / "conf" / "method" / "fold.yaml").write_text(yaml, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "conf"


@pytest.mark.usefixtures("present")
def test_what_a_package_brings_is_listed_composed_and_built_like_what_ships() -> None:
    kinds = catalogue()
    assert kinds["methods"]["half"][0] == "linear layers in sixteen bits"
    assert "mean_error" in kinds["metrics"]
    assert "half_or_ptq" in kinds["experiments"]
    assert "my_methods.half.Half" in targets()
    composer = Composer("config")
    requests = [build(composer.compose(job)) for job in composer.jobs(["experiment=half_or_ptq"])]
    assert [list(request.methods) for request in requests] == [[], [], ["half"], ["ptq"]]
    assert all("mean_error" in request.metrics for request in requests)


@pytest.mark.usefixtures("present")
def test_a_hint_names_what_a_package_brings(capsys: Any) -> None:
    assert main(["run", "method=[hlaf]"]) == 2
    assert "Did you mean half?" in capsys.readouterr().err


@pytest.mark.slow
def test_a_package_passes_the_conformance_suites(site: Path, tmp_path: Path) -> None:
    """In a process of their own, as whoever installed it runs them."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(site)])}
    command = ["pytest", "-q", "-p", "no:cacheprovider", "--pyargs", "parediff.testing", "-k", "half or mean_error"]
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "15 passed" in done.stdout


def test_a_folder_brings_its_configs_and_the_classes_beside_it_while_it_is_named(folder: Path) -> None:
    with searching(["conf"]):
        assert "fold" in files("method")
        built = build(Composer("config").compose(["method=[fold]"]))
        assert type(built.methods["fold"]).__module__ == "beside_it"
    assert "fold" not in files("method")
    assert str(folder.parent) not in sys.path
    with pytest.raises(RequestError, match="fold"):
        Composer("config").compose(["method=[fold]"])


def test_a_config_that_was_changed_is_read_anew(folder: Path) -> None:
    with searching(["conf"]):
        composer, path = Composer("config"), folder / "method" / "fold.yaml"
        assert composer.compose(["method=[fold]"]).methods.fold.dtype == "bfloat16"
        path.write_text(path.read_text(encoding="utf-8").replace("bfloat16", "float16"), encoding="utf-8")
        assert Composer("config").compose(["method=[fold]"]).methods.fold.dtype == "float16"


@pytest.mark.parametrize("named", [["--config-dir", "conf"], ["hydra.searchpath=[file://{folder}]"]])
def test_a_folder_is_named_by_option_or_override_and_launched_runs_find_it(folder: Path, named: list[str]) -> None:
    asked = ["method=[fold]", "metric=[psnr]", "tracker=none", "sampler.steps=2", "reference.steps=3"]
    words = [entry.format(folder=folder) for entry in named]
    assert main(["run", *asked, "workload.count=4", "workload.blocks=1", "cost=[size_bytes]", *words]) == 0
    assert list(folder.parent.glob("runs/default/*/record.json"))


def test_a_class_that_cannot_be_imported_is_told_with_its_reason(folder: Path, capsys: Any) -> None:
    (folder.parent / "broken_one.py").write_text("import absent_library\n")
    yaml = "# @package methods.broken\n# broken | no paper\n_target_: broken_one.Broken\n"
    (folder / "method" / "broken.yaml").write_text(yaml)
    assert main(["run", "method=[broken]", "--config-dir", "conf"]) == 2
    told = capsys.readouterr().err
    assert "broken_one.Broken" in told
    assert "No module named 'absent_library'" in told


@pytest.mark.slow
def test_workers_of_a_launcher_find_the_folder_too(folder: Path) -> None:
    asked = ["-m", "method=[fold]", "metric=[psnr]", "tracker=none", "sampler.steps=2,3", "workload.count=4"]
    further = ["workload.blocks=1", "cost=[size_bytes]", "launcher=joblib", "study=workers"]
    assert main(["run", *asked, *further, "--config-dir", "conf"]) == 0
    assert len(list(folder.parent.glob("runs/workers/*/record.json"))) == 2


def test_hydras_searchpath_may_name_a_folder_of_a_package() -> None:
    folders, others = searchpath_in(["hydra.searchpath=[pkg://parediff.report/page]", "seed=1"])
    assert others == ["seed=1"]
    with searching(folders):
        assert sources()[-1].conf == ROOT / "src" / "parediff" / "report" / "page"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--config-dir", "absent"], "config-dir=absent"),
        (["hydra.searchpath=absent"], "hydra.searchpath=absent"),
        (["hydra.searchpath=[pkg://absent_package/conf]"], "absent_package"),
    ],
)
def test_a_folder_that_is_none_is_refused(words: list[str], told: str, capsys: Any) -> None:
    assert main(["run", *words]) == 2
    assert told in capsys.readouterr().err


def test_a_name_that_is_taken_is_refused_rather_than_hidden(folder: Path, capsys: Any) -> None:
    (folder / "method" / "ptq.yaml").write_text("# @package methods.ptq\n_target_: beside_it.Half\n")
    assert main(["run", "--config-dir", "conf"]) == 2
    told = capsys.readouterr().err
    assert "method/ptq" in told
    assert "parediff has a method of this name too" in told


def test_an_entry_point_without_configs_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "empty_one-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: empty-one\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[parediff.plugins]\nempty-one = empty_one\n")
    (tmp_path / "empty_one").mkdir()
    (tmp_path / "empty_one" / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(RequestError, match="empty-one = empty_one: a package with a folder conf"):
        installed(tuple(sys.path))
