"""Parts of the line on their own, where a whole run would hide what they do."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from parediff.atomic import WriteError
from parediff.errors import RequestError
from parediff.pipeline import attempt, growth
from parediff.pipeline.attempt import Outcome
from parediff.pipeline.compress import load_state, restore, save
from parediff.pipeline.rehearsal import rehearse
from parediff.pipeline.saved import SavedRun
from parediff.pipeline.unfinished import NAME as UNFINISHED
from parediff.pipeline.unfinished import TRAINING, Unfinished
from parediff.results.interruption import handled, put_off
from parediff.results.progress import NAME as PROGRESS
from parediff.results.record import write
from synthetic import study


class Preparing:
    """A method that notes which model it prepared and finalized, and refuses what is told to be refused."""

    def __init__(self, refused: str = "") -> None:
        self.refused, self.log = refused, list[str]()

    def prepare(self, model: Any) -> None:
        self.log.append(f"prepare {model.name}")
        if model.name == self.refused:
            raise RequestError("method", "own", "another model is accepted")

    def finalize(self, model: Any) -> None:
        self.log.append(f"finalize {model.name}")


def network(name: str = "net") -> Any:
    made = SimpleNamespace(name=name, denoiser=nn.Linear(2, 2))
    made.copy = lambda: made
    return made


def test_a_rebuilt_model_is_prepared_filled_finalized_and_frozen() -> None:
    method, model, state = Preparing(), network(), {"weight": torch.ones(2, 2), "bias": torch.zeros(2)}
    model.denoiser.train()
    restore(model, {"own": method}, state)  # type: ignore[dict-item]
    assert method.log == ["prepare net", "finalize net"]
    assert torch.equal(model.denoiser.weight, torch.ones(2, 2))
    assert not model.denoiser.training
    assert not any(one.requires_grad for one in model.denoiser.parameters())


def test_a_saved_state_is_where_it_is_said_to_be(tmp_path: Path) -> None:
    path = save({"a": torch.arange(6).reshape(2, 3).T}, tmp_path)
    assert torch.equal(load_state(path)["a"], torch.arange(6).reshape(2, 3).T)


def test_the_outline_of_a_kept_run_has_the_structure_of_its_methods() -> None:
    kept, method = SavedRun.__new__(SavedRun), Preparing()
    vars(kept).update(name="kept", methods={"own": method}, uncompressed=SimpleNamespace(outline=network))
    assert kept.outline().name == "kept"
    assert method.log == ["prepare kept"]


def test_what_a_method_refuses_is_refused_without_weights() -> None:
    def asked(name: str, **changes: Any) -> Any:
        model = SimpleNamespace(outline=lambda: network(name))
        task = SimpleNamespace(check_asked=lambda outline: None, check=lambda outline: None)
        given = {"settings": SimpleNamespace(devices=1), "sampler": None, "workload": None, "task": task}
        return SimpleNamespace(**{"model": model, "methods": {"own": Preparing("odd")}, **given, **changes})

    rehearse([asked("plain")])
    with pytest.raises(RequestError, match="method=own"):
        rehearse([asked("plain"), asked("odd")])
    with pytest.raises(RequestError, match="devices=2"):  # this model has no `generate`
        rehearse([asked("plain", settings=SimpleNamespace(devices=2), methods={})])


def test_only_the_last_settled_state_is_kept_and_comes_back_with_what_is_told(tmp_path: Path) -> None:
    kept = Unfinished(tmp_path, "key")
    assert kept.settled(3) is None
    for place in (0, 1):
        kept.settle(place, {"a": torch.full((2,), float(place))}, {"samples": place})
    place, state, told = Unfinished(tmp_path, "key").settled(3) or (None, {}, {})
    assert (place, state["a"].tolist(), told) == (1, [1, 1], {"samples": 1})
    assert len(list(kept.folder.glob("after_method_*"))) == 2
    assert Unfinished(tmp_path, "another").settled(3) is None


@pytest.mark.parametrize(
    ("status", "save", "left"), [("finished", False, set()), ("finished", True, {TRAINING}), ("left", False, None)]
)
def test_what_a_lost_process_left_is_removed_where_its_run_is_finished(
    tmp_path: Path, status: str, save: bool, left: set[str] | None
) -> None:
    for name in (UNFINISHED, TRAINING):
        (tmp_path / name).mkdir()
    (tmp_path / PROGRESS).write_text("{}")
    request: Any = SimpleNamespace(folder=tmp_path, config={"save": save})
    attempt._clear(request, Outcome("a", None, status))
    everything = {UNFINISHED, TRAINING, PROGRESS}
    assert {name for name in everything if (tmp_path / name).exists()} == (everything if left is None else left)


def test_a_run_that_another_process_has_is_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextlib.contextmanager
    def taken(folder: Path, *, wait: bool) -> Iterator[bool]:
        yield wait

    request: Any = SimpleNamespace(id="a", folder=tmp_path)
    done = iter([None, None, Outcome("a", tmp_path, "finished")])
    monkeypatch.setattr(attempt, "lease", taken)
    monkeypatch.setattr(attempt, "settled", lambda request: next(done))
    assert attempt._attempt(request, wait=False) == Outcome("a", None, "held")
    assert attempt._attempt(request, wait=True) == Outcome("a", tmp_path, "finished")  # whoever had it finished it

    def full(request: Any) -> None:
        raise WriteError(tmp_path, PermissionError(13, "Permission denied"))

    monkeypatch.setattr(attempt, "settled", full)
    outcome = attempt._attempt(request, wait=True)
    assert (outcome.status, outcome.path) == ("failed", None)
    assert str(outcome.error).endswith("not written: Permission denied")


@pytest.mark.parametrize(
    ("error", "advised"),
    [(MemoryError(), True), (RuntimeError("DefaultCPUAllocator: can't allocate memory"), True), (ValueError(), False)],
)
def test_a_failure_is_told_to_the_tracker_and_memory_gets_advice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, advised: bool
) -> None:
    logged: list[tuple[Any, Any]] = []
    tracker = SimpleNamespace(log_record=lambda record, picture: logged.append((record["error"], picture)))
    request: Any = SimpleNamespace(id="a", folder=tmp_path, tracker=tracker)
    monkeypatch.setattr(attempt, "stated_by", lambda request: {"id": "a", "study": "s"})
    outcome = attempt.failed(request, error)
    assert outcome.status == "failed"
    assert logged == [(outcome.error, None)]
    assert str(outcome.error).startswith(type(error).__name__)
    assert ("smaller batches take less" in str(outcome.error)) == advised


def test_a_study_grows_at_the_tracker_with_every_new_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grown, seen = list[int](), threading.Event()

    class Tracker:
        def grow_front(self, front: dict[str, Any], page: None, name: str) -> None:
            grown.append(len(front["points"]))
            seen.set()

    monkeypatch.setattr(growth, "SECONDS", 0.01)
    tracker: Any = Tracker()
    with growth.growing(tracker, tmp_path, "demo", "bops", "fd_digits"):
        for own in study()[:8]:  # the first ones may come before the first look
            write(own, tmp_path / own.id)
            if seen.wait(2):
                break
    assert grown == [study().index(own) + 1]
    with growth.growing(tracker, tmp_path, "demo", "bops", "fd_digits"):
        pass  # nothing new
    assert len(grown) == 1


def test_a_run_takes_as_many_threads_as_it_is_told_and_else_those_there_are(tmp_path: Path) -> None:
    from parediff.pipeline.run import prepared

    before = torch.get_num_threads()
    try:
        for asked, taken in ((3, 3), (None, 3)):
            request: Any = SimpleNamespace(config={"resume": True, "threads": asked}, folder=tmp_path)
            prepared(request)
            assert torch.get_num_threads() == taken
    finally:
        torch.set_num_threads(before)


def test_a_signal_that_waits_is_heard_when_a_method_is_through(tmp_path: Path) -> None:
    told: list[int] = []
    with handled(lambda number, _: told.append(number), signal.SIGUSR2), put_off(signal.SIGUSR2):
        os.kill(os.getpid(), signal.SIGUSR2)
        assert not told
        Unfinished(tmp_path, "key").settle(0, {"weight": torch.ones(2)}, {})
        assert told == [signal.SIGUSR2]
