"""A run on two devices draws the same images, and so the same numbers, as on one."""

from __future__ import annotations

import json
import multiprocessing
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from composing import QUICK_PTQ
from parediff.cli import main
from parediff.config.compose import Composer
from parediff.config.request import build
from parediff.pipeline import several as processes
from parediff.results import record


def run(model: Path, root: Path, *overrides: str) -> record.Record:
    asked = [
        "model=pipeline",
        f"model.path={model}",
        "metric=[psnr,ssim]",
        "cost=[macs,bops,nfe,size_bytes]",
        "tracker=none",
        "workload.count=5",
        "workload.batch_size=2",
        "workload.blocks=2",
        "sampler.steps=2",
        "reference.steps=3",
        "calibration.count=2",
        f"runs_dir={root}",
        *overrides,
    ]
    assert main(["run", *asked]) == 0
    (found,) = record.find([root]).records
    return found


@pytest.mark.parametrize("begun", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_images_and_numbers_do_not_depend_on_the_number_of_devices(
    shallow_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, begun: str
) -> None:
    """A child of this process has everything imported; a spawned one is what a run begins."""
    context = multiprocessing.get_context(begun)
    monkeypatch.setattr(multiprocessing, "get_context", lambda _: context)
    method = ["method=[ptq,frdiff]", *QUICK_PTQ]
    alone = run(shallow_model, tmp_path / "one", *method)
    shared = run(shallow_model, tmp_path / "two", *method, "devices=2")
    told, same = (json.loads((one.folder / "record.json").read_text()) for one in (shared, alone))
    for key in ("quality", "fidelity", "stderr", "left_out", "protocol", "baseline", "cost"):
        assert told[key] == same[key], key
    images, others = (sorted((tmp_path / name / ".baselines").glob("*/outputs.npy")) for name in ("one", "two"))
    assert [file.read_bytes() for file in images] == [file.read_bytes() for file in others]
    assert (shared.folder / "samples.png").read_bytes() == (alone.folder / "samples.png").read_bytes()


def test_the_number_of_devices_is_no_part_of_what_a_run_is(tmp_path: Path) -> None:
    composer = Composer("config")
    one, two = (build(composer.compose([f"runs_dir={tmp_path}", "tracker=none", f"devices={n}"])) for n in (1, 2))
    assert one.id == two.id


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["devices=0"], "devices=0: a whole number of at least 1"),
        (["devices=2", "device=cuda:0"], "devices=2"),
        (["devices=2", "model=classifier_digits"], "draws no images"),
    ],
)
def test_devices_that_cannot_be_used_are_refused(
    overrides: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["run", "tracker=none", *overrides]) == 2
    assert told in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_run_on_several_devices_begins_a_process_for_each_further_one(monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[int] = []
    monkeypatch.setattr(processes, "_begun", lambda place, _: begun.append(place))
    monkeypatch.setattr(processes, "Crew", lambda connections: SimpleNamespace(begin=lambda _: None, of=connections))
    request: Any = SimpleNamespace(settings=SimpleNamespace(devices=3, device="cpu"))
    with processes.several(request) as crew:
        assert crew is not None
        assert begun == [1, 2]
    there: Any = object()
    request.settings.devices = 1
    with processes.joined([there]), processes.several(request) as crew:
        assert crew.of == (there,)  # type: ignore[union-attr]
        assert begun == [1, 2]


def test_a_process_that_ends_is_noticed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody but it holds the other end of its connection."""
    context = multiprocessing.get_context("fork")
    monkeypatch.setattr(multiprocessing, "get_context", lambda _: context)
    monkeypatch.setattr(processes, "serve", _ends_at_once)
    with ExitStack() as stack:
        connection = processes._begun(1, stack)
        assert connection.poll(60)
        with pytest.raises(EOFError):
            connection.recv()


def _ends_at_once(connection: Any, place: int) -> None:
    connection.close()
