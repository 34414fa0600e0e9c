"""One run from overrides to its record: what is written, what is refused, what survives."""

from __future__ import annotations

import errno
import json
import os
import shutil
import struct
import threading
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tiny
from composing import QUICK_PTQ
from parediff import atomic
from parediff.cli import main
from parediff.config.compose import Composer
from parediff.config.request import build
from parediff.errors import RequestError
from parediff.pipeline.progress import Reporter
from parediff.pipeline.saved import SavedRun
from parediff.pipeline.statement import protocol_of
from parediff.results import record

EVERY_COST = "cost=[macs,bops,nfe,size_bytes,peak_memory_bytes,latency_s]"


def on(model: Path, runs: Path) -> Any:
    """`parediff run` on a tiny model, records below `runs`."""
    fixed = [
        "model=pipeline",
        f"model.path={model}",
        "metric=[psnr,ssim]",
        "tracker=none",
        "workload.count=6",
        "workload.batch_size=4",
        "workload.blocks=2",
        "sampler.steps=4",
        "reference.steps=6",
        "calibration.count=2",
        "latency.images=1",
        "latency.repeats=2",
        f"runs_dir={runs}",
    ]

    def run(*overrides: str) -> int:
        many = ["-m"] if "-m" in overrides else []
        cost = [] if EVERY_COST in overrides else ["cost=[macs,bops,nfe,size_bytes]"]
        return main(["run", *many, *fixed, *cost, *(entry for entry in overrides if entry != "-m")])

    return run


@pytest.fixture
def line(shallow_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The command, with a folder of its own."""
    monkeypatch.chdir(tmp_path)
    return on(shallow_model, tmp_path / "runs")


@pytest.fixture(scope="module")
def once(shallow_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of one finished run and its baseline."""
    runs = tmp_path_factory.mktemp("once") / "runs"
    assert on(shallow_model, runs)() == 0
    return runs


@pytest.fixture
def finished(line: Any, once: Path, tmp_path: Path) -> record.Record:
    """The run that `line()` asks for has been made."""
    shutil.copytree(once, tmp_path / "runs")
    (found,) = records(tmp_path)
    return found


@pytest.fixture
def baseline(line: Any, once: Path, tmp_path: Path) -> None:
    """Nothing but the baseline has been made."""
    shutil.copytree(once / ".baselines", tmp_path / "runs" / ".baselines")


def records(tmp_path: Path) -> list[record.Record]:
    return record.find([tmp_path / "runs"]).records


def test_a_run_writes_one_whole_record_and_says_where(
    line: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    stages: list[str] = []
    stage = Reporter.stage
    monkeypatch.setattr(Reporter, "stage", lambda self, name, *more: (stages.append(name), stage(self, name, *more)))
    assert line(EVERY_COST) == 0
    assert [*dict.fromkeys(stages)] == ["load", "baseline", "baseline outputs", "evaluate", "cost", "track"]
    path = Path(capsys.readouterr().out.strip().splitlines()[-1])
    assert path.name == "record.json"
    found = record.read(path)
    assert found.status == "finished"
    assert found.workload == {"first_seed": 0, "count": 6, "conditions": None}
    assert found.sampler == {"name": "own", "steps": 4, "eta": 0.0}
    assert found.cost["nfe"] == 4
    assert found.baseline["cost"]["nfe"] == 6
    assert found.cost["macs"] * 6 == pytest.approx(found.baseline["cost"]["macs"] * 4)
    assert found.cost["latency_s"] > 0
    assert found.stderr["psnr"] > 0
    assert {"samples.png", "config.yaml", "record.json"} <= set(os.listdir(path.parent))
    assert "progress.json" not in os.listdir(path.parent)


@pytest.mark.usefixtures("baseline")
def test_the_baseline_itself_is_identical_and_has_no_psnr(line: Any, tmp_path: Path) -> None:
    assert line("sampler.steps=6") == 0
    (found,) = records(tmp_path)
    assert found.fidelity["psnr"] is None
    assert found.fidelity["ssim"] == pytest.approx(1.0)
    assert found.cost["macs"] == found.baseline["cost"]["macs"]


def test_a_finished_run_is_not_run_again(line: Any, finished: record.Record) -> None:
    before = Path(finished.folder or "") / "record.json"
    stamp = before.stat().st_mtime_ns
    assert line() == 0
    assert before.stat().st_mtime_ns == stamp
    assert line("resume=false") == 0
    assert before.stat().st_mtime_ns > stamp


@pytest.mark.usefixtures("finished")
def test_other_settings_are_another_run_and_share_the_baseline(line: Any, tmp_path: Path) -> None:
    assert line("sampler.steps=2") == 0
    found = records(tmp_path)
    assert len(found) == 2
    assert len({item.protocol for item in found}) == 1
    assert len(list((tmp_path / "runs" / ".baselines").iterdir())) == 1


@pytest.mark.usefixtures("finished")
def test_seeds_do_not_change_the_protocol_but_the_images(line: Any, tmp_path: Path) -> None:
    assert line("workload.first_seed=100") == 0
    assert len({item.protocol for item in records(tmp_path)}) == 1
    first, second = (np.load(path) for path in sorted((tmp_path / "runs" / ".baselines").glob("*/outputs.npy")))
    assert not np.array_equal(first, second)


@pytest.mark.usefixtures("baseline")
def test_a_sweep_is_a_study_with_a_front(line: Any, tmp_path: Path, capsys: Any) -> None:
    assert line("-m", "sampler.steps=2,4", "study=steps", "front.y=psnr") == 0
    assert len(records(tmp_path)) == 2
    front = json.loads((tmp_path / "runs" / "steps" / "front.json").read_text())
    assert len(front["points"]) == 2
    assert (tmp_path / "runs" / "steps" / "front.html").exists()
    assert capsys.readouterr().out.strip().endswith("record.json")


def test_several_values_without_m_are_refused(line: Any, tmp_path: Path, capsys: Any) -> None:
    assert line("sampler.steps=2,4") == 2
    assert "sampler.steps=2,4" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


@pytest.mark.usefixtures("baseline")
def test_a_failed_run_is_on_record_and_the_others_finish(
    line: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    tiny.fail_where(monkeypatch, lambda sampler: sampler.steps == 2, ArithmeticError("planted"))
    assert line("-m", "sampler.steps=2,4", "front.y=psnr") == 1
    captured = capsys.readouterr()
    assert "planted" in captured.err
    by_status = {item.status: item for item in records(tmp_path)}
    assert by_status["failed"].error == "ArithmeticError: planted"
    assert by_status["finished"].sampler["steps"] == 4
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert line("-m", "sampler.steps=2,4", "front.y=psnr") == 0
    assert {item.status for item in records(tmp_path)} == {"finished"}


@pytest.mark.usefixtures("finished")
def test_a_full_disk_loses_nothing_that_was_finished(
    line: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    plain = atomic._replace

    def full(path: Path, data: bytes) -> None:
        if path.name == "record.json":
            raise OSError(errno.ENOSPC, "No space left on device")
        plain(path, data)

    monkeypatch.setattr(atomic, "_replace", full)
    assert line("sampler.steps=2") == 1
    error = capsys.readouterr().err
    assert "the disk is full" in " ".join(error.split())
    assert [item.sampler["steps"] for item in records(tmp_path)] == [4]
    assert not list((tmp_path / "runs").rglob("*.tmp"))


@pytest.mark.usefixtures("baseline")
def test_a_kept_model_draws_the_same_images_bit_for_bit_and_can_be_compressed_further(
    line: Any, tmp_path: Path
) -> None:
    assert line("method=[ptq]", *QUICK_PTQ, "methods.ptq.weight_bits=6", "save=true", "study=first") == 0
    (kept,) = records(tmp_path)
    again = [
        "model=compressed",
        f"model.path={kept.folder}",
        "tracker=none",
        "metric=[psnr]",
        "cost=[macs,bops,size_bytes]",
    ]
    again += [
        "workload.count=6",
        "workload.batch_size=4",
        "workload.blocks=2",
        "reference.steps=6",
        f"runs_dir={tmp_path / 'again'}",
    ]
    assert main(["run", *again]) == 0
    assert main(["run", *again, "method=[frdiff]", "study=further"]) == 0
    out = tmp_path / "deployed.safetensors"
    assert main(["export", str(kept.folder), str(out)]) == 0
    (header,) = struct.unpack("<Q", out.read_bytes()[:8])
    assert out.stat().st_size - 8 - header == kept.cost["size_bytes"]
    assert main(["export", str(kept.folder), str(tmp_path / "deployed.bin")]) == 2
    assert main(["export", str(tmp_path), str(out)]) == 2
    by_study = {found.study: found for found in record.find([tmp_path / "again"]).records}
    same, further = by_study["default"], by_study["further"]
    assert kept.folder is not None
    assert same.folder is not None
    assert (same.folder / "samples.png").read_bytes() == (kept.folder / "samples.png").read_bytes()
    assert same.sampler == kept.sampler
    assert same.cost["bops"] == kept.cost["bops"]
    assert further.cost["bops"] < same.cost["bops"]
    assert further.protocol == same.protocol != kept.protocol


def test_a_folder_that_names_a_foreign_class_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "denoiser.safetensors").touch()
    (tmp_path / "config.yaml").write_text("model: {_target_: os.system, command: 'touch gone'}\n")
    with pytest.raises(RequestError, match=r"path=.*os\.system is none"):
        SavedRun("kept", str(tmp_path))
    with pytest.raises(RequestError, match="save=true"):
        SavedRun("kept", str(tmp_path / "nowhere"))


def test_changed_code_of_a_metric_or_method_is_measured_anew_and_says_so(
    line: Any, finished: record.Record, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    from parediff.pipeline import statement

    plain = statement.source_digest
    monkeypatch.setattr(
        statement, "source_digest", lambda names: "corrected" if "parediff.metrics.psnr" in names else plain(names)
    )
    assert line() == 0
    assert "measured anew: the code of psnr has changed" in " ".join(capsys.readouterr().err.split())
    (after,) = records(tmp_path)
    assert after.protocol != finished.protocol
    assert len(list((tmp_path / "runs" / ".baselines").iterdir())) == 2


@pytest.mark.usefixtures("baseline")
def test_emulated_methods_report_no_seconds(line: Any, tmp_path: Path) -> None:
    assert line("method=[ptq]", *QUICK_PTQ, EVERY_COST) == 0
    (found,) = records(tmp_path)
    assert found.cost["latency_s"] is None
    assert found.baseline["cost"]["latency_s"] is None
    assert found.cost["bops"] < found.baseline["cost"]["bops"]
    assert found.methods == ["ptq"]
    assert found.fired["ptq"]


def test_a_protocol_says_which_images_are_drawn_and_judged_on_which_versions(saved_model: Path) -> None:
    asked = ["model=pipeline", f"model.path={saved_model}", "metric=[psnr]", "tracker=none", "reference.steps=6"]

    def protocol(*more: str) -> dict[str, Any]:
        return protocol_of(build(Composer("config").compose([*asked, "workload.count=6", "workload.blocks=2", *more])))

    told = protocol()
    assert told["workload"] == {"count": 6, "conditions": None}
    assert told["reference"]["steps"] == 6
    assert told["versions"] == {name: version(name) for name in ("torch", "diffusers", "torchmetrics", "clean-fid")}
    assert set(told["code"]) > {"outputs", "psnr"}
    assert protocol("workload.first_seed=100") == told, "other images, the same question"
    others = (protocol("workload.count=8"), protocol("reference.steps=5"), protocol("metric=[psnr,ssim]"))
    assert all(other != told for other in others)


def test_a_run_that_another_process_has_is_left_to_it_and_its_record_is_taken_over(
    line: Any, finished: record.Record, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    from parediff.pipeline import attempt
    from parediff.results.lease import lease

    assert finished.folder is not None
    own = Path(finished.folder) / "record.json"
    own.rename(tmp_path / "kept.json")
    work, waits, wait = threading.Event(), threading.Event(), attempt.awaited

    def another() -> None:
        with lease(own.parent, wait=False) as held:
            assert held
            work.set()
            assert waits.wait(60)
            time.sleep(0.3)
            (tmp_path / "kept.json").rename(own)

    thread = threading.Thread(target=another)
    thread.start()
    assert work.wait(10)
    monkeypatch.setattr(attempt, "run", lambda *_: pytest.fail("the same work was done twice"))
    monkeypatch.setattr(attempt, "awaited", lambda config: (waits.set(), wait(config))[1])
    assert line() == 0
    thread.join()
    assert "worked on by another process" in " ".join(capsys.readouterr().err.split())


@pytest.mark.usefixtures("baseline")
def test_a_method_that_shows_no_effect_fails_the_run(
    line: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    from parediff.methods.quantize import Quantize

    monkeypatch.setattr(Quantize, "fired", lambda *_: {})
    assert line("method=[ptq]", *QUICK_PTQ) == 1
    assert "ptq shows no effect on" in " ".join(capsys.readouterr().err.split())
    assert [item.status for item in records(tmp_path)] == ["failed"]


@pytest.mark.usefixtures("baseline")
def test_resume_failed_repeats_what_failed_and_nothing_else(
    line: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    with monkeypatch.context() as planted:
        tiny.fail_where(planted, lambda sampler: sampler.steps == 2, ArithmeticError("planted"))
        assert line("-m", "sampler.steps=2,4", "front.y=psnr") == 1
    capsys.readouterr()
    assert line("-m", "sampler.steps=2,3,4", "front.y=psnr", "resume=failed") == 0
    assert sorted(found.sampler["steps"] for found in records(tmp_path)) == [2, 4]
    assert {found.status for found in records(tmp_path)} == {"finished"}
    assert "left alone" in " ".join(capsys.readouterr().err.split())


def test_a_failure_never_takes_the_place_of_a_finished_record(
    line: Any, finished: record.Record, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    tiny.fail_where(monkeypatch, lambda _: True, ArithmeticError("planted"))
    assert line("resume=false") == 1
    assert "planted (the finished record of before is kept)" in " ".join(capsys.readouterr().err.split())
    assert records(tmp_path) == [finished]


@pytest.mark.usefixtures("baseline")
def test_the_record_is_written_last_so_that_a_finished_run_is_whole(
    line: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []
    plain = os.replace

    def noting(source: Any, target: Any) -> None:
        plain(source, target)
        written.append(Path(target).name)

    monkeypatch.setattr(os, "replace", noting)
    assert line("save=true") == 0
    run = [name for name in written if name in ("config.yaml", "denoiser.safetensors", "samples.png", "record.json")]
    assert run[-1] == "record.json"
    assert {"config.yaml", "samples.png"} <= set(run)
