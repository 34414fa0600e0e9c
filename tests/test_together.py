"""Processes that a launcher began, on one machine or several, draw one run's images between them."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from composing import QUICK_PTQ
from parediff.cli import main
from parediff.errors import RequestError
from parediff.models.finite import NotFinite
from parediff.pipeline import several
from parediff.results import record
from parediff.training.launched import Place, forget, place

FORK = multiprocessing.get_context("fork")
TORCHRUN = {"RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "4", "MASTER_ADDR": "node0", "MASTER_PORT": "29400"}
JOB = {"SLURM_JOB_ID": "70123", "SLURM_NODELIST": "gpu[07-08]", "SLURM_NTASKS": "4", "SLURM_NTASKS_PER_NODE": "2"}


@pytest.fixture(autouse=True)
def _the_environment_is_left_as_it_was() -> Iterator[None]:
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


def slurm(rank: int, port: int) -> dict[str, str]:
    """What srun tells one of two tasks, each on a machine of its own."""
    own = {"SLURM_PROCID": str(rank), "SLURM_LOCALID": "0", "SLURM_NODEID": str(rank), "SLURM_NTASKS": "2"}
    step = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_NTASKS_PER_NODE": "1", "SLURM_JOB_ID": "7"}
    return own | step | {"SLURM_NODELIST": "127.0.0.1", "MASTER_PORT": str(port)}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def begun(words: list[str], environment: dict[str, str], told: Path) -> None:
    """The command in a process of a launcher's; what it says goes to a file."""
    os.environ.update(environment)
    with told.open("w") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        sys.exit(main(words))


def test_a_launchers_account_says_which_process_this_is(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MASTER_ADDR", "MASTER_PORT"):  # a training of this process may have left them
        monkeypatch.delenv(name, raising=False)
    assert place() is None
    for name, value in (JOB | {"SLURM_PROCID": "0"}).items():
        monkeypatch.setenv(name, value)
    assert place() is None, "a batch script runs once, however many tasks its allocation has"
    step = {"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "3", "SLURM_LOCALID": "1", "SLURM_NODEID": "1"}
    for name, value in step.items():
        monkeypatch.setenv(name, value)
    assert place() == Place(3, 1, 4, "gpu07", 15123)
    monkeypatch.delenv("SLURM_NTASKS_PER_NODE")
    with pytest.raises(RequestError, match="ntasks-per-node"):
        place()
    for name, value in (TORCHRUN | {"TORCHELASTIC_RUN_ID": "none"}).items():
        monkeypatch.setenv(name, value)
    assert place() == Place(3, 1, 4, "node0", 29400), "torchrun within a job"
    forget()
    assert not {*TORCHRUN, "TORCHELASTIC_RUN_ID"} & os.environ.keys()


def test_two_machines_share_one_run_and_its_numbers_are_those_of_one_process(
    shallow_model: Path, tmp_path: Path
) -> None:
    asked = [
        "model=pipeline",
        f"model.path={shallow_model}",
        "method=[ptq,frdiff]",
        *QUICK_PTQ,
        "metric=[psnr,ssim]",
        "cost=[macs,bops,nfe,size_bytes]",
        "tracker=none",
        "workload.count=5",
        "workload.batch_size=2",
        "workload.blocks=2",
        "sampler.steps=2",
        "reference.steps=3",
        "calibration.count=2",
    ]
    assert main(["run", *asked, f"runs_dir={tmp_path / 'one'}"]) == 0
    shared = ["run", *asked, f"runs_dir={tmp_path / 'two'}"]
    port, told = free_port(), tmp_path / "told"
    other = FORK.Process(target=begun, args=(shared, slurm(1, port), told))
    other.start()
    os.environ.update(slurm(0, port))
    assert main(shared) == 0
    other.join(60)
    assert (other.exitcode, told.read_text()) == (0, "")
    (one,), (two,) = (record.find([tmp_path / name]).records for name in ("one", "two"))
    for part in ("quality", "fidelity", "stderr", "left_out", "protocol", "baseline", "cost"):
        assert getattr(one, part) == getattr(two, part), part
    outputs = [sorted((tmp_path / name / ".baselines").glob("*/outputs.npy")) for name in ("one", "two")]
    assert [path.read_bytes() for path in outputs[0]] == [path.read_bytes() for path in outputs[1]]
    assert one.folder is not None
    assert two.folder is not None
    assert (one.folder / "samples.png").read_bytes() == (two.folder / "samples.png").read_bytes()


def sound(seed: int) -> torch.Tensor:
    return torch.full((1, 1, 2, 2), seed / 255)


def broken(seed: int) -> torch.Tensor:
    raise NotFinite(f"image {seed} is none")


class Ends:
    """A crew of threads instead of processes; what each draws is given."""

    def __init__(self, models: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
        self.pairs = [multiprocessing.get_context("spawn").Pipe() for _ in models]
        monkeypatch.setattr(several, "finite_images", lambda model, seeds, *_: model(*seeds))
        monkeypatch.setattr(
            several.Hand, "of", lambda _, place: several.Hand(cast(Any, None), "cpu", {False: models[place]})
        )
        for number, (_, theirs) in enumerate(self.pairs):
            threading.Thread(target=several.serve, args=(theirs, number), daemon=True).start()
        self.crew = several.Crew([ours for ours, _ in self.pairs])
        for ours in self.crew.connections:
            ours.send(("run", {}))


def drawn(crew: several.Crew, seeds: range) -> Iterator[int]:
    """The seeds as the drawn images tell them."""
    jobs = (((seed,), None) for seed in seeds)
    shared = several.Shared(crew, compressed=False)
    return (int(image.max()) for image in shared(sound, jobs, cast(Any, None)))


def test_batches_come_in_order_and_answers_that_nobody_waits_for_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    crew = Ends([sound, sound], monkeypatch).crew
    assert list(drawn(crew, range(10))) == list(range(10))
    left = drawn(crew, range(20, 30))
    assert [next(left), next(left)] == [20, 21]
    del left
    assert list(drawn(crew, range(5))) == list(range(5))


def test_what_goes_wrong_elsewhere_is_raised_where_the_run_is(monkeypatch: pytest.MonkeyPatch) -> None:
    ends = Ends([broken], monkeypatch)
    with pytest.raises(NotFinite, match="image 1 is none"):
        list(drawn(ends.crew, range(2)))
    ends.crew.connections[0].send(("restore", b"nothing"))
    with pytest.raises(RuntimeError, match="copy"):
        list(drawn(ends.crew, range(2)))
    for ours, theirs in ends.pairs:
        theirs.close()
        ours.close()
    with pytest.raises(several.Lost, match="ended before"):
        list(drawn(ends.crew, range(2)))


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["devices=2"], "a launcher began 2 processes"),
        (["device=cuda:0"], "CUDA devices are present"),
        (["model=classifier_digits"], "draws no images"),
        (["launcher=joblib"], "local is accepted"),
    ],
)
def test_requests_that_do_not_fit_a_launcher_are_refused(
    overrides: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    with several.joined([multiprocessing.get_context("spawn").Pipe()[0]]):
        assert main(["run", "tracker=none", *overrides]) == 2
    assert told in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_training_begins_its_processes_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    os.environ.update(slurm(0, free_port()))
    assert main(["train", "tracker=none"]) == 2
    assert "trainer.devices of them" in capsys.readouterr().err
