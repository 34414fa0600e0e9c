"""What is kept of a composition changes nothing: the config under choices, with settings put in, is Hydra's own."""

from pathlib import Path
from typing import Any

import pytest
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from parediff.config import choices
from parediff.config.choices import composed
from parediff.config.compose import Composer
from parediff.config.door import opened_hydra
from parediff.config.sources import searching

ONE = RunMode.RUN
REQUESTS = [
    (ONE, []),
    (ONE, ["sampler.steps=7"]),
    (ONE, ["method=[ptq,frdiff]", "methods.ptq.weight_bits=4", "sampler=ddpm", "methods.frdiff.interval=3", "seed=4"]),
    (ONE, ["model=pipeline", "model.path=some/where", "++model.options.height=16", "++model.options={a: {b: 1}}"]),
    (ONE, ["experiment=demo", "workload.count=8", "+tags.mine=yes", "~front"]),
    (ONE, ["sampler@reference=ddim", "reference.steps=9"]),
    (ONE, ["workload={count: 3}", "tracker=none", "seed=1", "seed=2", "hydra.job.name=mine"]),
    (RunMode.MULTIRUN, ["seed=0,1", "sampler.steps=2", "sampler=ddim,ddpm", "study=there"]),
]
WRONG = [
    ["sampler=no_such"],
    ["no_such=1"],
    ["sampler.no_such=1"],
    ["sampler.steps=[1,2"],
    ["workload.no_such.deep=7"],
    ["seed=0,1"],
    ["other@there=1"],
]


def _attempt(act: Any, *request: Any) -> tuple[str, str]:
    """The config as text, structure flags included, or the whole complaint."""
    try:
        config = act(*request)
    except (HydraException, OmegaConfBaseException) as error:
        return type(error).__name__, f"{error} {error.__cause__}"
    return "composed", OmegaConf.to_yaml(config) + str(OmegaConf.is_struct(config.sampler))


@pytest.mark.parametrize(("mode", "overrides"), [*REQUESTS, *((ONE, wrong) for wrong in WRONG)])
def test_it_is_what_hydra_composes(
    mode: RunMode, overrides: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hydras = opened_hydra().config_loader
    _attempt(composed, hydras, "config", overrides, mode)
    monkeypatch.chdir(tmp_path)  # what is kept was composed elsewhere
    expected = _attempt(hydras.load_configuration, "config", overrides, mode)
    assert (expected[0] == "composed") is (overrides not in WRONG)
    assert _attempt(composed, hydras, "config", overrides, mode) == expected


def test_settings_compose_nothing_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    of_choices = choices._of_choices.__wrapped__
    monkeypatch.setattr(
        choices, "_of_choices", choices.functools.lru_cache(lambda *a: asked.append(a) or of_choices(*a))
    )
    for steps in (3, 4, 5):
        config = Composer("config").compose(["sampler=ddim", f"sampler.steps={steps}"])
        assert config.sampler.steps == steps
    assert [entry[2] for entry in asked] == [("sampler=ddim",)]


def test_what_a_caller_does_to_its_config_stays_with_it() -> None:
    first = Composer("config").compose(["sampler.steps=3"])
    first.sampler.steps = 99
    assert Composer("config").compose(["sampler.steps=4"]).sampler.steps == 4
    assert Composer("config").compose([]).sampler.steps != 99


def test_a_file_that_was_changed_is_read_anew(tmp_path: Path) -> None:
    folder = tmp_path / "conf" / "experiment"
    folder.mkdir(parents=True)
    (folder / "round").symlink_to(tmp_path / "conf")
    (folder / "nowhere.yaml").symlink_to(tmp_path / "gone.yaml")
    steps = []
    for count in (3, 44):
        (folder / "mine.yaml").write_text(f"# @package _global_\nworkload:\n  count: {count}\n")
        with searching([str(tmp_path / "conf")]):
            steps.append(Composer("config").compose(["experiment=mine", "seed=1"]).workload.count)
    (folder / "other.yaml").write_text("# @package _global_\nworkload:\n  count: 5\n")
    with searching([str(tmp_path / "conf")]):
        steps.append(Composer("config").compose(["experiment=other", "seed=1"]).workload.count)
    assert steps == [3, 44, 5]
