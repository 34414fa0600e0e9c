"""Tracking: everything is in the offline file, and nothing W&B does or fails to do touches a run."""

from __future__ import annotations

import io
import json
import logging
import os
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import pytest
from omegaconf import OmegaConf
from PIL import Image
from rich.console import Console

from parediff.errors import RequestError
from parediff.pipeline.growth import growing
from parediff.tracking import LightningTracker, NoTracker, WandbTracker, sync, sync_command
from parediff.tracking.content import fronts_of, proofs, wandb_id
from parediff.training.fit import logger_of
from synthetic import write_study
from wandb_server import Server, serving

RECORD = {
    "id": "abc123",
    "status": "finished",
    "error": None,
    "model": "ddpm_digits",
    "methods": ["ptq", "frdiff"],
    "protocol": "f00d",
    "quality": {"fd_digits": 5.5, "top1": None},
    "fidelity": {"psnr": 30.25},
    "cost": {"macs": 12, "bops": 768.0, "latency_s": None},
    "stderr": {"fd_digits": 0.125},
}
NUMBERS = {
    "quality/fd_digits": 5.5,
    "fidelity/psnr": 30.25,
    "cost/macs": 12,
    "cost/bops": 768.0,
    "stderr/fd_digits": 0.125,
}
FRONT = {
    "x": "cost/bops",
    "y": "quality/fd_digits",
    "points": [
        {"id": "abc123", "x": 768.0, "y": 5.5, "methods": ["ptq", "frdiff"], "on_front": True},
        {"id": "def456", "x": 900.0, "y": 6.5, "methods": [], "on_front": False, "y_stderr": 0.5},
    ],
    "hypervolume": 42.5,
    "reference": [1000.0, 10.0],
}
CONFIG = {"model": {"name": "ddpm_digits"}, "seed": 7}
KEY = "0123456789abcdef0123456789abcdef01234567"  # nobody's
TWICE = ("first=auto", "second=auto")


def tracker(folder: Path, mode: str = "offline", **options: Any) -> WandbTracker:
    given = {"project": "parediff", "entity": None, "init_timeout_s": 5.0, "finish_timeout_s": 20.0} | options
    return WandbTracker(mode=mode, dir=str(folder), **given)


def picture(folder: Path) -> Path:
    Image.new("L", (8, 8), color=128).save(folder / "samples.png")
    return folder / "samples.png"


def track_one_run(folder: Path) -> None:
    one = tracker(folder)
    one.start(CONFIG, "digits", "run", "abc123")
    one.log_record(RECORD, picture(folder))
    one.finish()
    assert one.problems == []


def stored(file: Path) -> list[Any]:
    """The records of a .wandb file: LevelDB's log format after a header of 7 bytes."""
    from wandb.proto import wandb_internal_pb2

    data, at, joined, records = file.read_bytes(), 7, b"", []
    while at < len(data):
        room = 32768 - at % 32768
        if room < 7:
            at += room
            continue
        _, size, kind = struct.unpack("<IHB", data[at : at + 7])
        joined += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # a whole record, or the last part of one
            records.append(wandb_internal_pb2.Record.FromString(joined))
            joined = b""
    return records


def only_file(folder: Path) -> Path:
    """The folder's one run, once W&B's own process has closed it, moments after `finish`."""
    (file,) = (folder / "wandb").glob("offline-run-*/run-*.wandb")
    for _ in range(500):
        if any(record.HasField("exit") for record in stored(file)):
            return file
        time.sleep(0.01)
    raise AssertionError(f"{file} has no end")


def values(items: Any) -> dict[str, Any]:
    return {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in items}


def read_run(file: Path) -> dict[str, Any]:
    """Config, group and job type of the run, its history rows merged, and its summary as it ends."""
    run: dict[str, Any] = {"history": {}, "summary": {}}
    for record in stored(file):
        if record.HasField("run"):
            run |= {"config": values(record.run.config.update), "about": record.run}
        run["history"] |= values(record.history.item)
        run["summary"] |= values(record.summary.update)
        run["exit_code"] = record.exit.exit_code if record.HasField("exit") else None
    return run


@pytest.fixture(scope="module")
def offline_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    track_one_run(folder)
    return folder


def test_the_offline_file_holds_config_group_stage_and_every_number(offline_run: Path) -> None:
    run = read_run(only_file(offline_run))
    assert run["config"]["model"] == {"name": "ddpm_digits"}
    assert run["config"]["seed"] == 7
    assert (run["about"].run_group, run["about"].job_type) == ("digits", "run")
    assert (run["about"].display_name, run["about"].project) == ("abc123", "parediff")
    assert run["exit_code"] == 0
    for part in ("history", "summary"):
        assert {key: run[part][key] for key in NUMBERS} == NUMBERS
        assert "quality/top1" not in run[part]
        assert "cost/latency_s" not in run[part]
    assert run["summary"]["methods"] == "ptq + frdiff"
    assert run["summary"]["protocol"] == "f00d"


def test_the_sample_images_lie_in_the_runs_folder(offline_run: Path) -> None:
    file = only_file(offline_run)
    logged = read_run(file)["history"]["samples/path"]
    assert (file.parent / "files" / logged).read_bytes() == (offline_run / "samples.png").read_bytes()


def test_the_front_is_a_run_of_its_own_with_table_plot_and_hypervolume(tmp_path: Path) -> None:
    one = tracker(tmp_path)
    one.log_front(FRONT, go.Figure(go.Scatter(x=[768.0], y=[5.5])), "digits")
    assert one.problems == []
    file = only_file(tmp_path)
    run, media = read_run(file), file.parent / "files"
    assert (run["about"].run_group, run["about"].job_type) == ("digits", "pareto")
    assert run["history"]["front/hypervolume"] == run["summary"]["front/hypervolume"] == 42.5
    assert {key: run["config"][key] for key in ("x", "y")} == {"x": "cost/bops", "y": "quality/fd_digits"}
    table = json.loads((media / run["history"]["front/table/path"]).read_text())
    assert table["columns"] == ["id", "x", "y", "methods", "on_front", "y_stderr"]
    assert table["data"] == [
        ["abc123", 768.0, 5.5, "ptq + frdiff", True, None],
        ["def456", 900.0, 6.5, "", False, 0.5],
    ]
    plot = json.loads((media / run["history"]["front/plot/path"]).read_text())
    assert plot["data"][0]["type"] == "scatter"
    assert list((tmp_path / "wandb" / "staging").rglob("tmp*"))  # what the table uploads stays with the study
    assert "WANDB_DATA_DIR" not in os.environ


def test_a_failed_run_is_marked_failed(tmp_path: Path) -> None:
    one = tracker(tmp_path)
    one.start({}, "digits", "run", "abc123")
    one.log_record({"status": "failed", "error": "out of memory", "quality": {}}, None)
    one.finish()
    run = read_run(only_file(tmp_path))
    assert run["exit_code"] == 1
    assert run["summary"]["error"] == "out of memory"


def test_a_training_logs_its_own_steps(tmp_path: Path) -> None:
    one = tracker(tmp_path)
    one.start({}, "digits", "train", "t")
    one.experiment().log({"loss": 0.5}, step=100)
    one.finish()
    rows = [record.history for record in stored(only_file(tmp_path)) if record.HasField("history")]
    assert [(row.step.num, values(row.item)["loss"]) for row in rows] == [(100, 0.5)]


def test_without_wandb_a_run_goes_on_with_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    one = tracker(tmp_path)
    with caplog.at_level(logging.WARNING):
        one.start(CONFIG, "digits", "run", "abc123")
        one.log_record(RECORD, None)
        one.finish()
    assert one.experiment() is None
    assert len(one.problems) == len(caplog.messages) == 1
    assert "could not start" in one.problems[0]
    assert "\n" not in one.problems[0]


@pytest.mark.parametrize("broken", ["log", "finish"])
def test_whatever_wandb_raises_is_a_problem_on_record_and_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    one = tracker(tmp_path)
    one.start(CONFIG, "digits", "run", "abc123")
    monkeypatch.setattr(type(one.experiment()), broken, fail)
    run = one.experiment()
    one.log_record(RECORD, picture(tmp_path))
    one.finish()
    monkeypatch.undo()
    run.finish()
    assert len(one.problems) == 1
    assert "No space left on device" in one.problems[0]


def test_a_folder_that_cannot_be_made_is_a_problem_on_record(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    one = tracker(tmp_path / "file")
    one.start(CONFIG, "digits", "run", "abc123")
    one.log_front(FRONT, None, "digits")
    assert len(one.problems) == 2


def test_disabled_and_none_track_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    for one in (tracker(tmp_path, "disabled"), NoTracker()):
        one.start(CONFIG, "digits", "run", "abc123")
        one.log_record(RECORD, None)
        one.log_front(FRONT, None, "digits")
        one.finish()
        assert one.problems == []
    assert list(tmp_path.iterdir()) == []


def test_auto_leaves_the_word_to_wandbs_own_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    one = tracker(tmp_path, "auto")
    one.start(CONFIG, "digits", "run", "abc123")
    assert one.experiment() is None
    assert list(tmp_path.iterdir()) == []


def test_options_are_checked_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="mode=sometimes: one of auto, online, offline, disabled"):
        tracker(tmp_path, "sometimes")
    with pytest.raises(RequestError, match="init_timeout_s=0"):
        tracker(tmp_path, init_timeout_s=0)


@pytest.mark.parametrize("name", ["wandb", "none"])
def test_the_yaml_names_every_argument(name: str) -> None:
    from hydra.utils import instantiate

    text = (Path(__file__).parents[1] / "conf" / "tracker" / f"{name}.yaml").read_text()
    config = OmegaConf.create({"runs_dir": "runs", "study": "digits", "tracker": OmegaConf.create(text)})
    made = instantiate(config.tracker)
    assert isinstance(made, (WandbTracker, NoTracker))
    assert getattr(made, "dir", "runs/digits") == "runs/digits"


def test_importing_the_tracker_does_not_import_wandb() -> None:
    code = "import sys, parediff.tracking; sys.exit('wandb' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


# Against a server: in a process of its own, because W&B reads its address once.

RUNS = f"""
import json, sys
from pathlib import Path
from parediff.tracking import WandbTracker
folder, timeout = Path(sys.argv[1]), float(sys.argv[2])
problems = []
for name, mode in (entry.split("=") for entry in sys.argv[3:]):
    tracker = WandbTracker(mode, "parediff", None, str(folder), timeout, 20.0)
    tracker.start({CONFIG!r}, "digits", "run", name)
    tracker.log_record({RECORD!r}, None)
    tracker.finish()
    problems.append(tracker.problems)
print(json.dumps(problems))
"""


def environment(home: Path, url: str, key: str | None = KEY) -> dict[str, str]:
    """W&B's variables for a server and an account, and none of the machine's own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
    own = {"HOME": str(home), "NETRC": str(home / "netrc"), "WANDB_BASE_URL": url, "WANDB__GRAPHQL_RETRY_MAX": "1"}
    return kept | own | ({"WANDB_API_KEY": key} if key else {})


def run_each(folder: Path, env: dict[str, str], *runs: str, timeout: float = 20) -> list[list[str]]:
    """What went wrong in each of several runs of one process, each `name=mode`."""
    command = [sys.executable, "-c", RUNS, str(folder), str(timeout), *runs]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True, timeout=120)
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as server:
        yield server


@pytest.fixture
def account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Gives this process and the uploader it starts an account on a server, or none."""

    def give(url: str, key: str | None = KEY) -> None:
        for name in [name for name in os.environ if name.startswith("WANDB")]:
            monkeypatch.delenv(name)
        for name, value in environment(tmp_path, url, key).items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr("parediff.tracking.upload.has_account", lambda: key is not None)

    return give


def closed_port() -> str:
    with serving() as server:
        return server.url


def test_an_unreachable_server_costs_one_short_wait_and_the_runs_are_kept_offline(tmp_path: Path) -> None:
    start = time.perf_counter()
    of_first, of_second = run_each(tmp_path, environment(tmp_path, closed_port()), *TWICE, timeout=1)
    assert time.perf_counter() - start < 40
    (problem,) = of_first + of_second  # asked once, not for every run
    assert "going on offline" in problem
    assert f"parediff sync {tmp_path}" in problem
    files = sorted((tmp_path / "wandb").glob("offline-run-*/run-*.wandb"))
    assert sorted(read_run(file)["about"].display_name for file in files) == ["first", "second"]
    assert all(read_run(file)["summary"]["quality/fd_digits"] == 5.5 for file in files)


def test_without_an_account_auto_is_offline_without_a_word_and_online_says_so_once(tmp_path: Path) -> None:
    asked = [*TWICE, "third=online", "fourth=online"]
    of_auto, of_auto_again, *of_online = run_each(tmp_path, environment(tmp_path, closed_port(), key=None), *asked)
    assert of_auto == of_auto_again == []
    ((problem,), nothing) = of_online
    assert "no account is configured" in problem
    assert nothing == []
    assert len(list((tmp_path / "wandb").glob("offline-run-*"))) == 4


def test_with_an_account_auto_is_online_and_leaves_nothing_to_upload(tmp_path: Path, server: Server) -> None:
    assert run_each(tmp_path, environment(tmp_path, server.url), *TWICE) == [[], []]
    assert sorted(run["displayName"] for run in server.runs.values()) == ["first", "second"]
    assert all(r"\"quality/fd_digits\":5.5" in stream for stream in server.streams.values())
    assert sync([tmp_path]).failed == {}


def test_sync_uploads_what_is_offline_once(tmp_path: Path, server: Server, account: Any) -> None:
    track_one_run(tmp_path)
    account(server.url)
    report = sync([tmp_path])
    assert report.uploaded == (only_file(tmp_path).resolve(),)
    (stream,) = server.streams.values()
    assert r"\"cost/macs\":12" in stream
    assert any("samples" in file for file in server.files)
    again = sync([tmp_path])
    assert (again.uploaded, again.failed, again.already) == ((), {}, report.uploaded)


def test_sync_says_what_was_not_uploaded(tmp_path: Path, server: Server, account: Any) -> None:
    one = tracker(tmp_path)
    for name in ("taken", "refused"):
        one.start(CONFIG, "digits", "run", name)
        one.finish()
    account(server.url)
    server.refused = {"refused"}
    out = io.StringIO()
    assert sync_command([tmp_path], Console(file=out, width=60)) == 1
    lines = out.getvalue().splitlines()
    assert [line.split("  ")[0] for line in lines[:-1]] == ["uploaded", "not uploaded"]
    assert "permission denied" in lines[1]
    assert lines[-1] == "1 uploaded, 1 not uploaded, 0 uploaded earlier"


def test_sync_to_an_unreachable_server_fails_with_the_reason(tmp_path: Path, account: Any) -> None:
    track_one_run(tmp_path)
    account(closed_port())
    report = sync([tmp_path])
    assert report.uploaded == ()
    assert "connection refused" in next(iter(report.failed.values()))


def test_sync_without_an_account_or_without_wandb_says_so(
    tmp_path: Path, account: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert sync_command([tmp_path], Console(file=io.StringIO())) == 0  # nothing to upload
    track_one_run(tmp_path)
    account(closed_port(), key=None)
    assert "wandb login" in next(iter(sync([tmp_path]).failed.values()))
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert "W&B cannot be used" in next(iter(sync([tmp_path]).failed.values()))
    with pytest.raises(RequestError, match="PATH="):
        sync([tmp_path / "missing"])


def test_a_run_is_named_by_its_record_so_that_a_repeat_goes_on(offline_run: Path) -> None:
    (file,) = (offline_run / "wandb").glob("offline-run-*/run-*.wandb")
    assert file.name == "run-abc123.wandb"
    assert read_run(file)["about"].run_id == "abc123"


def test_names_that_wandb_cannot_take_get_an_id_of_their_own() -> None:
    assert wandb_id("abc-123_x") == "abc-123_x"
    assert wandb_id("tdq/ptq-pareto").startswith("tdq-ptq-pareto-")
    assert wandb_id("tdq/ptq-pareto") != wandb_id("tdq-ptq/pareto")
    assert len(wandb_id("x" * 200)) <= 64


def test_what_fired_and_the_baseline_are_in_the_summary() -> None:
    found = proofs(
        {"fired": {"ptq": {"layers": [1, 2], "share": 0.9}}, "baseline": {"quality": {"fd": 2.0, "x": None}}}
    )
    assert found == {"fired/ptq/layers": "[1, 2]", "fired/ptq/share": 0.9, "baseline/quality/fd": 2.0}


def test_every_protocol_has_a_panel_of_its_own() -> None:
    other = FRONT | {"protocol": "0123456789abcdef"}
    assert list(fronts_of(FRONT | {"fronts": [FRONT, other]})) == ["front", "front_01234567"]


def test_the_front_grows_step_by_step_in_one_run(tmp_path: Path) -> None:
    one = tracker(tmp_path)
    for volume in (1.0, 2.0, 42.5):
        one.grow_front(FRONT | {"hypervolume": volume}, None, "digits")
    one.log_front(FRONT, None, "digits")
    assert one.problems == []
    file = only_file(tmp_path)
    grown = [values(row.history.item).get("front/hypervolume") for row in stored(file) if row.HasField("history")]
    assert grown == [1.0, 2.0, 42.5, 42.5]


def test_csv_files_hold_numbers_of_runs_and_of_the_front(tmp_path: Path) -> None:
    one = LightningTracker(kind="csv", dir=str(tmp_path))
    one.start(CONFIG, "digits", "run", "abc123")
    assert logger_of(one) is one.experiment()
    logger_of(one).log_metrics({"train/loss": 0.5}, 3)
    one.log_record(RECORD, None)
    one.finish()
    one.log_front(FRONT, None, "digits")
    assert one.problems == []
    text = (tmp_path / "csv" / "abc123" / "metrics.csv").read_text()
    assert "quality/fd_digits" in text
    assert "0.5" in text
    assert "42.5" in (tmp_path / "csv" / "digits-pareto" / "metrics.csv").read_text()


def filled(kind: Any, folder: Path) -> LightningTracker:
    """What a run and its study's front leave behind."""
    one = LightningTracker(kind=kind, dir=str(folder))
    one.start(CONFIG, "digits", "run", "abc123")
    one.log_record(RECORD, None)
    one.finish()
    for volume in (40.0, 42.5):
        one.grow_front(FRONT | {"hypervolume": volume}, None, "digits")
    one.finish()
    assert one.problems == []
    return one


def test_tensorboard_holds_numbers_of_runs_and_the_hypervolume_as_it_grew(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="TensorBoard is not installed: pip install tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    filled("tensorboard", tmp_path)
    run, front = (EventAccumulator(str(tmp_path / "tensorboard" / name)) for name in ("abc123", "digits-pareto"))
    run.Reload()
    front.Reload()
    assert [entry.value for entry in run.Scalars("quality/fd_digits")] == [5.5]
    assert [(entry.step, entry.value) for entry in front.Scalars("front/hypervolume")] == [(0, 40.0), (1, 42.5)]


def test_mlflow_holds_numbers_of_runs_and_the_hypervolume_as_it_grew(tmp_path: Path) -> None:
    pytest.importorskip("mlflow", reason="MLflow is not installed: pip install mlflow")
    from mlflow.tracking import MlflowClient

    filled("mlflow", tmp_path)
    client = MlflowClient(f"sqlite:///{(tmp_path / 'mlflow.db').resolve()}")
    (experiment,) = [one for one in client.search_experiments() if one.name == "digits"]
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert set(runs) == {"abc123", "digits-pareto"}
    assert runs["abc123"].data.metrics["quality/fd_digits"] == 5.5
    history = client.get_metric_history(runs["digits-pareto"].info.run_id, "front/hypervolume")
    assert [(entry.step, entry.value) for entry in history] == [(0, 40.0), (1, 42.5)]
    assert {run.info.status for run in runs.values()} == {"FINISHED"}


def test_a_logger_that_breaks_costs_nothing_but_a_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    one = LightningTracker(kind="csv", dir=str(tmp_path / "file"))
    one.start(CONFIG, "digits", "run", "abc123")
    one.log_record(RECORD, None)
    one.finish()
    assert one.problems


def test_a_logger_whose_package_is_missing_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(RequestError, match="pip install mlflow"):
        LightningTracker(kind="mlflow", dir="runs")


def test_a_growing_study_is_logged_while_it_runs_and_never_disturbed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("parediff.pipeline.growth.SECONDS", 0.01)
    told: list[int] = []

    class Telling(NoTracker):
        def grow_front(self, front: Any, figure: Any, study: str) -> None:
            told.append(len(front["points"]))
            raise RuntimeError("the tracker is down")

    with growing(Telling(), tmp_path / "demo", "demo", None, None):
        write_study(tmp_path)
        for _ in range(500):
            if told:
                break
            time.sleep(0.01)
    assert told
