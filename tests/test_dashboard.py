"""The page without a browser: what is written, read again and refused, and what can be asked of the server."""

from __future__ import annotations

import copy
import io
import json
import os
import socket
import struct
import threading
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from parediff.atomic import WriteError
from parediff.commands.dashboard import dashboard_command
from parediff.errors import RequestError
from parediff.report import page
from parediff.report.columns import IDENTITY, columns, row
from parediff.report.dashboard import chunks, content, pictures, thinning, write
from parediff.report.dashboard.collection import Collection
from parediff.report.dashboard.published import published_points
from parediff.report.dashboard.serve import Live, server
from parediff.report.palette import COLOURS, MARKERS, styles
from parediff.resources import shipped
from parediff.results import record as records
from synthetic import record, scored, study, write_study


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_study(tmp_path_factory.mktemp("runs"))


def told(script: Path | str) -> list[Any]:
    """The arguments of a data script."""
    text = script.read_text() if isinstance(script, Path) else script
    return json.loads("[" + text.partition("(")[2].rstrip().removesuffix(");") + "]")


def manifest(folder: Path) -> dict[str, Any]:
    return told(folder / "data" / "manifest.js")[0]


def shown(folder: Path) -> list[dict[str, Any]]:
    """Every run of a page on disk, by column."""
    found = []
    for name in manifest(folder)["rows"]:
        (packed,) = told(folder / "data" / name)
        unpacked = {
            key: [[*values, None][place] for place in places] for key, (values, places) in packed["columns"].items()
        }
        found += [{key: own[index] for key, own in unpacked.items()} for index in range(packed["count"])]
    return found


# what is written


def test_a_folder_holds_page_rows_details_and_pictures_apart(runs: Path, tmp_path: Path) -> None:
    assert write.write_folder([runs], tmp_path) == tmp_path / "index.html"
    rows, expected = {own["id"]: own for own in shown(tmp_path)}, {own.id: own for own in study()}
    assert rows.keys() == expected.keys()
    for name, own in expected.items():
        assert rows[name]["cost.bops"] == own.cost["bops"]
        assert rows[name].get("quality.fd_digits") == own.quality.get("fd_digits")
        file, text, trace, calibrated = told(tmp_path / "data" / "runs" / f"{name}.js")
        assert (file, trace, calibrated) == (name, None, None)
        assert json.loads(text) == own.to_json()
    assert len(list((tmp_path / "pictures").iterdir())) == 8
    html = (tmp_path / "index.html").read_text()
    assert "http" not in html.replace("http-equiv", "")
    licences = (tmp_path / "assets" / "LICENSES.txt").read_text()
    assert all(name in licences for name in ("uPlot", "SlickGrid", "SortableJS", "MIT"))


def test_the_page_without_data_is_small() -> None:
    assert sum(map(len, page.assets().values())) < 2_000_000


def test_one_file_holds_everything_and_may_load_nothing(runs: Path, tmp_path: Path) -> None:
    text = write.write_page([runs], tmp_path / "page.html").read_text()
    assert "default-src 'none'" in text
    assert text.count("parediff.picture(") == 8
    assert 'src="' not in text
    assert text.count("<script>") == text.count("</script>")


def test_one_file_has_a_stated_limit_and_a_folder_none(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write, "LARGEST_FILE", 1000)
    with pytest.raises(RequestError, match="more than 1,000 bytes as one file"):
        write.write_page([runs], tmp_path / "page.html")
    assert write.write_either([runs], tmp_path / "page.html") == tmp_path / "page" / "index.html"


def test_a_study_that_is_called_like_a_place_of_the_page_fills_none(tmp_path: Path) -> None:
    records.write(scored(record(study="{{code}}"), 5, 20), tmp_path / "a")
    text = write.write_page([tmp_path], tmp_path / "page.html").read_text()
    assert "<title>parediff: {{code}}</title>" in text


def test_text_from_records_cannot_become_markup(tmp_path: Path) -> None:
    evil = "</script><script>alert(1)</script><!--"
    own = scored(record({evil: {"note": evil}}, study=evil, error=evil), 5, 20)
    records.write(own, tmp_path / "a")
    records.write(replace(own, id="../../" + evil, status="failed", error=evil), tmp_path / "b")
    text = write.write_page([tmp_path], tmp_path / "page.html").read_text()
    assert evil not in text
    assert text.count("<script") == text.count("</script>")
    write.write_folder([tmp_path], tmp_path / "out")
    names = {path.name for path in (tmp_path / "out" / "data" / "runs").iterdir()}
    assert all(name.replace(".js", "").replace("-", "").isalnum() for name in names)


def test_the_page_is_written_beside_the_records_unless_another_place_is_named(runs: Path, tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), width=40)
    assert dashboard_command([runs], None, False, 0, console) == 0
    assert (runs / "dashboard.html").exists()
    assert str(runs / "dashboard.html") in console.file.getvalue()  # type: ignore[attr-defined]
    assert dashboard_command([runs], str(tmp_path / "new" / "page.html"), False, 0, console) == 0
    assert dashboard_command([runs], str(tmp_path / "folder"), False, 0, console) == 0
    assert (tmp_path / "folder" / "index.html").exists()
    with pytest.raises(WriteError):
        dashboard_command([runs], str(runs / "dashboard.html" / "folder"), False, 0, console)


def test_nothing_at_all_is_a_wrong_request_and_warnings_alone_are_a_page(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="PATH"):
        dashboard_command([tmp_path], None, False, 0, Console(file=io.StringIO()))
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "record.json").write_text("{")
    write.write_folder([tmp_path], tmp_path / "page")
    assert "bad/record.json: not a readable record" in manifest(tmp_path / "page")["warnings"][0]


# what is read again


def test_a_second_build_reads_only_what_is_new_or_has_changed_and_ends_as_a_first_would(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = write_study(tmp_path / "runs")
    write.write_folder([runs], tmp_path / "page")
    first, *_ = sorted(runs.glob("demo/*/record.json"))
    changed = replace(records.read(first), quality={"fd_digits": 77.0})
    records.write(changed, first.parent)
    extra = scored(record(steps=7), 9, 20)
    records.write(extra, runs / "demo" / extra.id)
    gone = sorted(runs.glob("demo/*/record.json"))[-1]
    name = records.read(gone).id
    gone.unlink()
    read: list[Path] = []
    real = records.read_with_remarks
    monkeypatch.setattr("parediff.report.dashboard.collection.read_with_remarks", lambda p: read.append(p) or real(p))
    write.write_folder([runs], tmp_path / "page")
    assert len(read) == len({first, runs / "demo" / extra.id / "record.json"} - {gone})
    write.write_folder([runs], tmp_path / "anew")
    again, anew = ({own["id"]: own for own in shown(tmp_path / place)} for place in ("page", "anew"))
    assert {key: {k: v for k, v in own.items() if v is not None} for key, own in again.items()} == {
        key: {k: v for k, v in own.items() if v is not None} for key, own in anew.items()
    }
    assert again[changed.id]["quality.fd_digits"] == 77.0
    assert name not in again
    assert not (tmp_path / "page" / "data" / "runs" / f"{name}.js").exists()
    listed = {*manifest(tmp_path / "page")["rows"], manifest(tmp_path / "page")["labels"], "manifest.js"}
    assert {path.name for path in (tmp_path / "page" / "data").glob("*.js")} == listed


def test_rows_survive_packing_with_their_types() -> None:
    rows = [{"a": 1, "b": "x"}, {"a": 1.0}, {"a": True, "b": "x"}, {"c": ""}]
    (packed,) = chunks.packed([chunks.Source(str(i), 0, 0) for i in range(4)], rows)
    back = list(packed.rows())
    assert back == rows
    assert [type(own.get("a")) for own in back] == [int, float, bool, type(None)]


def test_a_page_that_was_half_written_is_built_from_the_start(runs: Path, tmp_path: Path) -> None:
    write.write_folder([runs], tmp_path)
    (tmp_path / "data" / "index.json").write_text('{"format": 1, "chunks": [["rows-x.js", []]')
    write.write_folder([runs], tmp_path)
    assert len(shown(tmp_path)) == 9


# names, colours, columns


def test_runs_are_told_apart_by_settings_then_by_seeds(tmp_path: Path) -> None:
    for steps, seed in ((10, 0), (10, 1000), (20, 0)):
        own = scored(record({"ptq": {"weight_bits": 4, "activation_bits": 8}}, steps=steps, first_seed=seed), 9, 20)
        records.write(own, tmp_path / own.id)
    gathered = Collection()
    gathered.update([tmp_path])
    assert sorted(gathered.labels()) == [
        "ptq W4A8 · 10 steps · seed 0",
        "ptq W4A8 · 10 steps · seed 1000",
        "ptq W4A8 · 20 steps",
    ]


def test_a_combination_keeps_its_colour_and_marker_and_no_two_share_both_while_pairs_are_free() -> None:
    names = [[f"method{index}"] for index in range(len(COLOURS) * len(MARKERS))]
    all_of_them = styles(names)
    assert len(set(all_of_them.values())) == len(names)
    assert styles([["ptq"]])["ptq"] == styles([["ptq"], ["tdq"]])["ptq"]
    assert len(styles([*names, ["one more"]])) == len(names) + 1


def test_every_number_on_record_is_a_column_with_the_unit_and_the_direction_on_record() -> None:
    own = scored(record(steps=10), 9, 20)
    own = replace(own, baseline={"cost": {"bops": own.cost["bops"] * 5}}, cost={**own.cost, "joules": 3.0})
    own = replace(own, units={**own.units, "joules": ["J", "energy"]}, better={**own.better, "joules": "lower"})
    known = {column.key: column for column in columns(own)}
    assert {entry.column.key for entry in IDENTITY} <= known.keys()
    assert (known["cost.joules"].symbol, known["cost.joules"].meaning) == ("J", "energy")
    assert known["fidelity.psnr"].better == "higher"
    assert known["quality.fd_digits"].error == "stderr.fd_digits"
    assert row(own)["ratio.bops"] == pytest.approx(0.2)
    assert known["config.sampler.steps"].kind == "number"


def test_fronts_and_baselines_survive_thinning_and_what_is_left_out_is_stated(runs: Path, tmp_path: Path) -> None:
    for index in range(60):
        own = scored(record({"x": {"n": index}}, steps=25), 500.0 + index, 1.0)
        records.write(own, tmp_path / own.id)
    gathered = Collection()
    gathered.update([runs, tmp_path])
    assert thinning.selection(gathered).statement is None
    chosen = thinning.selection(gathered, limit=30)
    assert len(chosen.places) == 30
    assert "30 of 69 runs are shown" in str(chosen.statement)
    ids = {gathered.values("id")[place] for place in chosen.places}
    assert {own.id for own in study() if not own.methods} <= ids


# what is wrong with a record


def mutations() -> Iterator[tuple[str, Any]]:
    """A sound record with one thing wrong, everywhere and in many ways."""
    sound = scored(record({"ptq": {"weight_bits": 4, "activation_bits": 8}}, bits=(4, 8)), 9, 20).to_json()
    wrong = {
        "null": None,
        "number": 3,
        "text": "<b>[red]x",
        "list": [[1], {"a": None}],
        "object": {"a": {"b": [1]}},
        "huge": 10**400,
    }
    for key in sound:
        for kind, value in wrong.items():
            yield f"{key} is {kind}", {**sound, key: value}
        yield f"{key} is missing", {own: value for own, value in sound.items() if own != key}
    for section, key in (
        *(("sampler", key) for key in ("name", "steps", "eta")),
        *(("workload", key) for key in ("first_seed", "count")),
        *(("quality", "fd_digits"), ("cost", "bops"), ("fired", "ptq"), ("config", "methods"), ("code", "commit")),
        *(
            ("config", "seed"),
            ("units", "bops"),
            ("better", "fd_digits"),
            ("stderr", "fd_digits"),
            ("baseline", "cost"),
        ),
    ):
        for kind, value in {**wrong, "infinite": float("inf"), "nan": float("nan"), "negative": -1}.items():
            changed = copy.deepcopy(sound)
            changed[section][key] = value
            yield f"{section}.{key} is {kind}", changed
    deep: Any = 1
    for _ in range(400):
        deep = {"a": deep}
    yield "deep", {**sound, "config": deep}
    yield "half a character", {**sound, "model": "\ud800"}
    yield "newer", {**sound, "schema": 99}


def test_whatever_is_wrong_with_a_record_the_page_is_built_and_front_too(runs: Path, tmp_path: Path) -> None:
    from parediff.report.study import front_command

    cases = dict(mutations())
    assert len(cases) >= 94
    for place, (_, mutated) in enumerate(cases.items()):
        folder = tmp_path / "runs" / f"{place:03}"
        folder.mkdir(parents=True)
        own = {**mutated, "id": f"m{place}"} if isinstance(mutated.get("id"), str) and mutated["id"] else mutated
        (folder / "record.json").write_text(json.dumps(own))
    write.write_folder([runs, tmp_path / "runs"], tmp_path / "page")
    found = shown(tmp_path / "page")
    assert {own.id for own in study()} <= {own["id"] for own in found}
    warned = "\n".join(manifest(tmp_path / "page")["warnings"])
    seen = {own["_folder"] for own in found}
    for place, name in enumerate(cases):
        assert f"{place:03}" in seen or f"{place:03}/record.json" in warned, name
    console = Console(file=io.StringIO(), width=120)
    assert front_command([runs, tmp_path / "runs"], None, None, None, None, console) == 0


def test_a_half_written_folder_and_a_copy_of_a_run_do_not_stop_the_others(tmp_path: Path) -> None:
    write_study(tmp_path)
    (tmp_path / "demo" / "half").mkdir()
    (tmp_path / "demo" / "half" / "samples.png").write_bytes(b"\x89PNG")
    records.write(study()[0], tmp_path / "copy")
    write.write_folder([tmp_path], tmp_path / "page")
    assert len(shown(tmp_path / "page")) == 9
    assert any("the same run as" in line for line in manifest(tmp_path / "page")["warnings"])


def test_links_out_of_the_folder_are_neither_followed_nor_shown(tmp_path: Path) -> None:
    outside = write_study(tmp_path / "outside")
    secret = tmp_path / "secret.png"
    secret.write_bytes(next(outside.glob("demo/*/samples.png")).read_bytes())
    inside = tmp_path / "inside"
    own = scored(record(steps=9), 9, 20)
    records.write(own, inside / "a")
    (inside / "a" / "samples.png").symlink_to(secret)
    (inside / "folder").symlink_to(outside)
    (inside / "b").mkdir()
    (inside / "b" / "record.json").symlink_to(next(outside.glob("demo/*/record.json")))
    (inside / "loop").symlink_to(inside / "loop")
    write.write_folder([inside], tmp_path / "page")
    assert [row["id"] for row in shown(tmp_path / "page")] == [own.id]
    assert list((tmp_path / "page" / "pictures").iterdir()) == []
    warned = "\n".join(manifest(tmp_path / "page")["warnings"])
    assert all(f"inside/{name}" in warned for name in ("a/samples.png", "folder", "b/record.json"))


def png(width: int, height: int) -> bytes:
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR" + head + struct.pack(">I", zlib.crc32(b"IHDR" + head))


@pytest.mark.parametrize("bad", [png(60_000, 60_000), png(0, 5), b"GIF89a" + b"0" * 40, b"", b"\x89PNG\r\n\x1a\n"])
def test_a_picture_that_is_none_or_far_too_large_is_named_and_not_decoded(bad: bytes, tmp_path: Path) -> None:
    records.write(scored(record(), 5, None), tmp_path / "a")
    (tmp_path / "a" / "samples.png").write_bytes(bad)
    with pytest.raises(pictures.PictureError, match=r"samples\.png: not shown"):
        pictures.size(tmp_path / "a")
    write.write_folder([tmp_path], tmp_path / "page")
    assert "samples.png: not shown" in manifest(tmp_path / "page")["warnings"][0]
    assert list((tmp_path / "page" / "pictures").iterdir()) == []


def test_a_pipe_posing_as_a_picture_or_a_record_is_not_waited_for(tmp_path: Path) -> None:
    records.write(scored(record(), 5, None), tmp_path / "a")
    os.mkfifo(tmp_path / "a" / "samples.png")
    (tmp_path / "b").mkdir()
    os.mkfifo(tmp_path / "b" / "record.json")
    gathered = Collection()
    gathered.update([tmp_path])
    assert gathered.total == 1
    assert any("no regular file" in line for line in gathered.warnings)


# served


def get(port: int, path: str = "/", **headers: str) -> Any:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    return opener.open(urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers=headers), timeout=20)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[int, Path]]:
    runs = write_study(tmp_path / "runs")
    with server(Live([runs]).answer, 0) as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield running.server_address[1], runs
        running.shutdown()
        thread.join(timeout=10)


def test_a_served_page_follows_the_records(served: tuple[int, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    port, runs = served
    monkeypatch.setattr("parediff.report.dashboard.serve.RESTS_S", 0.0)
    monkeypatch.setattr("parediff.report.dashboard.serve.PATIENCE", 0.0)
    monkeypatch.setattr("parediff.report.dashboard.content.time.strftime", lambda _: "a minute that does not end")
    assert b"data/manifest.js" in get(port).read()
    before = json.load(get(port, "/data/manifest.json"))
    extra = scored(record(steps=7), 9, 20)
    records.write(extra, runs / "demo" / extra.id)
    after = get(port, "/data/manifest.json")
    tag, now = after.headers["ETag"], json.load(after)
    assert (before["total"], now["total"]) == (9, 10)
    assert all(b"parediff.rows(" in get(port, f"/data/{name}").read() for name in now["rows"])
    assert extra.id.encode() in get(port, f"/data/runs/{extra.id}.js").read()
    some = next(own for own in study() if own.status == "finished")
    assert get(port, f"/pictures/{some.id}.png").read().startswith(b"\x89PNG")
    with pytest.raises(urllib.error.HTTPError, match="304"):
        get(port, "/data/manifest.json", **{"If-None-Match": tag})


@pytest.mark.parametrize(
    "path",
    [
        "/../../etc/passwd",
        "/data/../index.json",
        "/data/runs/../../x.js",
        "/pictures/x.png",
        "/assets/../page.html",
        "/data/",
    ],
)
def test_nothing_but_the_page_is_served(served: tuple[int, Path], path: str) -> None:
    with pytest.raises(urllib.error.HTTPError, match="404"):
        get(served[0], path)


def test_the_server_answers_to_its_own_name_only(served: tuple[int, Path]) -> None:
    port, _ = served
    assert get(port, Host=f"localhost:{port}").status == 200
    for name in ("evil.example", f"evil.example:{port}", "127.0.0.1", f"127.0.0.1:{port + 1}"):
        with pytest.raises(urllib.error.HTTPError, match="421"):
            get(port, Host=name)


def test_a_client_that_hangs_up_leaves_no_traceback(served: tuple[int, Path], capfd: Any) -> None:
    for _ in range(3):
        with socket.create_connection(("127.0.0.1", served[0])) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.sendall(f"GET /assets/slick.grid.js HTTP/1.0\r\nHost: localhost:{served[0]}\r\n\r\n".encode())
    time.sleep(0.3)
    assert get(served[0]).status == 200
    assert "Traceback" not in capfd.readouterr().err


def test_a_folder_that_goes_away_becomes_a_warning_on_the_served_page(tmp_path: Path) -> None:
    live = Live([tmp_path / "gone"])
    with pytest.raises(RequestError):
        live.first_look()
    assert "existing folder" in live.view().manifest["warnings"][0]


def test_a_port_that_is_none_or_taken_is_a_wrong_request(served: tuple[int, Path]) -> None:
    for port in (70000, served[0]):
        with pytest.raises(RequestError, match=f"port={port}"):
            server(lambda _: None, port)


def test_data_inside_a_script_cannot_end_its_element() -> None:
    assert "</script>" not in content.manifest_script({"x": "</script>"})


# the benchmark


def test_the_benchmark_measures_a_small_page(tmp_path: Path) -> None:
    from parediff.bench.dashboard import main

    console = Console(record=True, width=120)
    assert main(["records=30", "browser=false", f"folder={tmp_path}"], console) == 0
    assert "built again after 10 new" in console.export_text()
    assert len(shown(tmp_path / "page")) == 40
    with pytest.raises(RequestError, match="records=0"):
        main(["records=0"], console)


def test_published_numbers_come_with_source_and_status_and_a_metric_that_is_ours() -> None:
    points = published_points()
    statuses = {"primary", "primary-of-other-paper", "secondary", "user-report", "unverified"}
    assert {"tdq", "nipq", "qncd", "data_free"} <= {own["study"] for own in points}
    assert all(own["status"] in statuses and own["source"] and own["method"] for own in points)
    assert {own["metric"] for own in points} <= {path.stem for path in (shipped("conf") / "metric").glob("*.yaml")} | {
        "sfid"
    }
