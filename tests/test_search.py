"""The search: what it may draw, what it remembers, what it does not do twice, and where it stops early."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from parediff.cli import main
from parediff.config.compose import Composer
from parediff.errors import RequestError
from parediff.pipeline import attempt
from parediff.results import record as records
from parediff.search.journal import JournalLock, begun, known_points, opened
from parediff.search.optimise import Search
from parediff.search.settings import asked
from parediff.search.space import Space, overrides_of

SPACE = {
    "method": [[], ["frdiff"], ["ptq", "frdiff"]],
    "sampler.steps": {"from": 1, "to": 4},
    "methods.frdiff.interval": {"from": 2, "to": 3},
    "bits": {"choose": ["W4A4", "W8A8"], "when": ["ptq"]},
}
WITH_METHODS = {"method": [[], ["frdiff"]], "sampler.steps": [1, 2, 3]}


class Draws:
    """Stands for an Optuna trial: the first or the last of everything."""

    def __init__(self, place: int) -> None:
        self.place, self.asked = place, list[str]()

    def suggest_categorical(self, key: str, choices: Any) -> Any:
        self.asked.append(key)
        return choices[self.place]

    def suggest_int(self, key: str, low: int, high: int, *, step: int, log: bool) -> int:
        self.asked.append(key)
        return (low, high)[self.place]


def test_what_belongs_to_a_method_is_drawn_only_where_the_run_has_it() -> None:
    space = Space.of(SPACE)
    assert space.drawn(Draws(0)) == {"method": "[]", "sampler.steps": 1}
    full = {"method": "[ptq,frdiff]", "sampler.steps": 4, "methods.frdiff.interval": 3, "bits": "W8A8"}
    assert space.drawn(Draws(-1)) == full
    assert overrides_of(full) == ["method=[ptq,frdiff]", "sampler.steps=4", "methods.frdiff.interval=3", "bits=W8A8"]
    assert [point["method"] for point in space.corners()] == [
        *("[]", "[]", "[frdiff]", "[frdiff]"),
        *("[ptq,frdiff]", "[ptq,frdiff]"),
    ]


def test_a_finished_run_is_found_again_in_the_space() -> None:
    space = Space.of(SPACE)
    config = {"sampler": {"steps": 3}, "methods": {"frdiff": {"interval": 2}}, "bits": None}
    assert list(space.found_in(config, ["frdiff"])) == [
        {"method": "[frdiff]", "sampler.steps": 3, "methods.frdiff.interval": 2}
    ]
    assert list(space.found_in(config | {"sampler": {"steps": 9}}, ["frdiff"])) == []
    assert list(space.found_in(config, ["nipq"])) == []


@pytest.mark.parametrize(
    ("changed", "complaint"),
    [
        ({"space": {}}, r"search\.space="),
        (
            {"space": {"method": [["frdiff"]], "methods.ptq.weight_bits": [4]}},
            r"ptq\.weight_bits=ptq: methods",
        ),
        ({"space": {"sampler.steps": {"from": 1}}}, r"search\.space\.sampler\.steps="),
        ({"space": {"sampler.steps": {"from": 1, "too": 3}}}, "no such word: too"),
        ({"space": {"sampler.stepz": [4]}}, r"sampler\.stepz=4: no such key"),
        ({"trials": 0}, r"search\.trials=0"),
        ({"trails": 4}, "Did you mean trials"),
        ({"objectives": ["bops"]}, r"search\.objectives="),
        ({"objectives": ["bops", "fid"]}, r"search\.objectives=fid: a cost or metric of the runs"),
        ({"sampler": "grid"}, r"search\.sampler=grid"),
        ({"constraints": {"bops": "few"}}, r"search\.constraints\.bops=few"),
        ({"space": WITH_METHODS, "first": [{"method": []}]}, r"search\.first="),
        ({"first": [{"sampler.steps": 9}]}, r"search\.first\.sampler\.steps=9"),
    ],
)
def test_a_wrong_search_is_refused_before_anything_runs(
    file: Callable[..., Path], changed: dict[str, Any], complaint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempt, "run", lambda *_: pytest.fail("something ran"))
    with pytest.raises(RequestError, match=complaint):
        Search(asked(str(file(**changed)), []), Composer("config"), print)


@pytest.fixture
def file(shallow_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """A search of a tiny model in a file; keys of its `search` part can be changed."""
    monkeypatch.chdir(tmp_path)

    def write(**changed: Any) -> Path:
        search: dict[str, Any] = {"objectives": ["cost.macs", "ssim"], "trials": 4, "sampler": "random"}
        search |= {"space": {"sampler.steps": [1, 2, 3]}} | changed
        study = {
            "defaults": [
                {"override /model": "pipeline"},
                {"override /metric": ["psnr", "ssim"]},
                {"override /tracker": "none"},
                {"override /cost": ["macs", "bops", "nfe"]},
            ],
            "model": {"path": str(shallow_model)},
            "study": "tiny",
            "workload": {"count": 4, "batch_size": 2, "blocks": 2},
            "reference": {"steps": 3},
            "search": search,
        }
        path = tmp_path / "space.yaml"
        path.write_text(yaml.safe_dump(study, sort_keys=False))
        return path

    return write


def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The runs that are really run."""
    plain, ran = attempt.run, list[str]()

    def run(request: Any, *rest: Any) -> Any:
        ran.append(request.id)
        return plain(request, *rest)

    monkeypatch.setattr(attempt, "run", run)
    return ran


def test_a_search_has_its_front_goes_on_and_never_runs_a_point_twice(
    file: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    ran = counted(monkeypatch)
    path = str(file(first=[{"sampler.steps": 3}]))
    assert main(["search", path, "search.trials=2"]) == 0
    assert capsys.readouterr().out.strip().endswith("front.html")
    first = list(ran)
    assert 1 <= len(first) <= 2
    assert main(["search", path, "search.trials=2"]) == 0
    assert ran == first
    assert main(["search", path]) == 0
    assert len(ran) == len(set(ran)) <= 4
    front = json.loads((tmp_path / "runs" / "tiny" / "front.json").read_text())
    assert (front["x"], front["y"]) == ("cost.macs", "fidelity.ssim")
    assert {point["id"] for point in front["points"]} == set(ran)
    assert {found.id for found in records.find([tmp_path / "runs"]).records} == set(ran)


def test_records_of_other_studies_are_known_from_the_start(
    file: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    path = str(file(space={"sampler.steps": [2, 3]}))
    assert main(["search", path, "search.trials=1", "study=other"]) == 0
    ran = counted(monkeypatch)
    assert main(["search", path, "search.trials=1", "search.warm_start=[runs/other]"]) == 0
    assert ran == []
    assert "known:" in capsys.readouterr().err


def test_a_budget_stops_a_point_after_a_few_images(file: Callable[..., Path], tmp_path: Path, capsys: Any) -> None:
    path = str(file(space={"sampler.steps": [3]}, few=2, constraints={"cost.nfe": 2}, trials=1))
    assert main(["search", path]) == 1  # nothing to lay out: the only point was over its budget
    assert "over a constraint on 2 images" in capsys.readouterr().err
    assert [found.workload["count"] for found in records.find([tmp_path / "runs"]).records] == [2]


def test_a_point_is_beaten_where_another_is_better_in_everything_by_more_than_its_error(
    file: Callable[..., Path],
) -> None:
    search = Search(asked(str(file()), []), Composer("config"), print)
    assert search.directions == ["minimize", "maximize"]
    behind = lambda mine, theirs: search._is_behind(mine, (0.0, 0.1), theirs, (0.0, 0.1))  # noqa: E731
    assert behind((2.0, 0.4), (1.0, 0.9))
    assert not behind((2.0, 0.7), (1.0, 0.9))  # within two standard errors of the difference
    assert not behind((0.5, 0.4), (1.0, 0.9))  # cheaper


def test_a_point_whose_process_was_lost_is_asked_for_again(
    file: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    path = str(file(space=WITH_METHODS, trials=1))
    search = Search(asked(path, []), Composer("config"), print)
    with opened(search.folder, search.settings, search.directions, search._identity()) as (study, worker):
        trial = begun(study, search.folder, worker, 1)
        assert trial is not None
        lost = search.settings.space.drawn(trial)
        assert begun(study, search.folder, worker, 1) is None
    assert main(["search", path]) == 0
    assert "1 points of processes that are gone" in capsys.readouterr().err
    with opened(search.folder, search.settings, search.directions, search._identity()) as (study, _):
        assert known_points(study) == [lost]
    (found,) = records.find([tmp_path / "runs"]).records
    assert found.sampler["steps"] == int(lost["sampler.steps"])


def test_another_search_does_not_go_on_in_the_same_folder(file: Callable[..., Path]) -> None:
    search = Search(asked(str(file()), []), Composer("config"), print)
    with opened(search.folder, search.settings, search.directions, "one"):
        pass
    with (
        pytest.raises(RequestError, match="study=tiny"),
        opened(search.folder, search.settings, search.directions, "another"),
    ):
        pass


def test_half_a_line_of_a_lost_writer_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "journal.log"
    path.write_bytes(b'{"a":1}\n{"b":')
    lock = JournalLock(path)
    lock.acquire()
    lock.release()
    assert path.read_bytes() == b'{"a":1}\n'


def test_the_space_that_ships_composes() -> None:
    Search(asked("digits", ["tracker=none"]), Composer("config"), print)
    with pytest.raises(RequestError, match="Did you mean digits"):
        asked("digit", [])


def test_a_search_whose_points_all_fail_ends(
    file: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    tried: list[str] = []

    def run(request: Any, *_: Any) -> Any:
        tried.append(request.id)
        raise ArithmeticError("nothing works")

    monkeypatch.setattr(attempt, "run", run)
    assert main(["search", str(file(trials=50))]) != 0
    assert 1 <= len(tried) <= 6
    assert "in a row failed" in "".join(capsys.readouterr())
