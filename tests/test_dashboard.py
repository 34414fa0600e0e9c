from __future__ import annotations

import base64
import io
import json
import re
import threading
import urllib.error
import urllib.request
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from parediff.atomic import WriteError
from parediff.commands.dashboard import dashboard_command
from parediff.errors import RequestError
from parediff.provenance import fingerprint
from parediff.report import page
from parediff.report.dashboard import render
from parediff.report.dashboard.pictures import picture
from parediff.report.dashboard.serve import server
from parediff.results.record import find, write
from synthetic import DETAILS, record, scored, study, write_study

VOID = {"meta", "img", "br", "input", "link", "hr"}


class Checker(HTMLParser):
    """Follows open elements; a page that leaves one open or closes another is broken."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def body_of(html: str) -> str:
    """Without plotly and our own script and style."""
    return re.sub(r"<style>.*?</style>|<script>.*?</script>", "", html, flags=re.S)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_study(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def html(runs: Path) -> str:
    return render([runs])


def test_the_page_is_well_formed_and_fetches_nothing(html: str) -> None:
    checker = Checker()
    checker.feed(body_of(html))
    assert checker.open == []
    assert checker.links
    assert all(link.startswith(("data:image/", "#run-")) for link in checker.links)


def test_every_run_is_on_the_page_with_its_settings_and_finished_ones_with_pictures(html: str) -> None:
    for own in study():
        assert f'<details id="run-{own.id}">' in html
    assert body_of(html).count("data:image/png;base64,") == 8
    assert "methods.ptq.weight_bits" in html


def test_failed_runs_are_listed_with_their_error(html: str) -> None:
    assert "Failed runs" in html
    assert "no layer matched" in html


def test_the_protocol_and_the_reference_point_are_stated(html: str) -> None:
    assert fingerprint(DETAILS) in body_of(html)
    assert "reference_sampler.steps" in html
    assert "reference point (642 GBOPs, 67.1)" in body_of(html)


def test_the_chart_offers_every_cost_and_worth_on_record(html: str) -> None:
    views = json.loads(re.search(r'id="protocol-0">(.*?)</script>', html, re.S).group(1))  # type: ignore[union-attr]
    costs = ("bops", "macs", "latency_s", "nfe", "size_bytes")
    assert set(views) == {
        f"cost.{x} {y}" for x in costs for y in ("quality.fd_digits", "fidelity.psnr", "fidelity.ssim")
    }
    assert len(views["cost.bops quality.fd_digits"]["figure"]["data"]) == 3
    assert any("no cost.latency_s" in line for line in views["cost.latency_s quality.fd_digits"]["remarks"])


def test_text_from_records_cannot_become_markup(tmp_path: Path) -> None:
    evil = "</script><script>alert(1)</script>"
    own = scored(record({evil: {"note": evil}}, study=evil, error=evil), 5, 20)
    write(own, tmp_path / "a")
    write(replace(own, id="b", status="failed", error=evil), tmp_path / "b")
    assert evil not in render([tmp_path])


def test_several_protocols_get_a_section_each_and_are_told_apart(tmp_path: Path) -> None:
    other = {**DETAILS, "count": 500}
    own = replace(scored(record(steps=7), 9, 20), protocol=fingerprint(other), protocol_details=other)
    write(own, write_study(tmp_path) / "other")
    shown = render([tmp_path])
    assert shown.count('class="card panel"') == 2
    assert "They differ in count." in shown


def test_runs_of_several_seeds_are_named_by_their_seed(tmp_path: Path) -> None:
    for seed in (0, 1000):
        own = scored(record(steps=10, first_seed=seed), 9, 20)
        write(own, tmp_path / own.id)
    shown = render([tmp_path])
    assert "ddim 10 steps · seed 0" in shown
    assert "ddim 10 steps · seed 1000" in shown


def test_records_of_failures_only_still_make_a_page(tmp_path: Path) -> None:
    write(study()[-1], tmp_path / "x")
    assert "no layer matched" in render([tmp_path])


def test_a_record_without_any_worth_still_makes_a_page(tmp_path: Path) -> None:
    write(replace(record(), quality={}, fidelity={}), tmp_path / "x")
    assert "No run has both a cost and a worth." in render([tmp_path])


def test_a_corrupt_record_is_named_on_the_page(tmp_path: Path) -> None:
    (write_study(tmp_path) / "bad").mkdir()
    (tmp_path / "bad" / "record.json").write_text("{")
    assert "bad/record.json: not a readable record" in render([tmp_path])


def test_a_large_sheet_of_samples_is_embedded_smaller_and_a_broken_one_left_out(tmp_path: Path) -> None:
    import numpy as np
    from PIL import Image

    write(record(), tmp_path)
    (own,), _ = find([tmp_path])
    assert picture(own) is None
    pixels = np.random.default_rng(0).integers(0, 256, (900, 900, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "samples.png")
    source = picture(own)
    assert source is not None
    with Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))) as image:
        assert image.size == (640, 640)
    (tmp_path / "samples.png").write_bytes(b"x" * 400_000)
    assert picture(own) is None


def test_the_page_is_written_beside_the_records_unless_another_place_is_named(runs: Path, tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), width=40)
    assert dashboard_command([runs], None, False, 0, console) == 0
    assert (runs / "dashboard.html").exists()
    assert str(runs / "dashboard.html") in console.file.getvalue()  # type: ignore[attr-defined]
    assert dashboard_command([runs], str(tmp_path / "new" / "page.html"), False, 0, console) == 0
    assert (tmp_path / "new" / "page.html").exists()
    with pytest.raises(WriteError):
        dashboard_command([runs], str(runs / "dashboard.html" / "page.html"), False, 0, console)


def test_a_folder_without_records_is_a_wrong_request(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="PATH"):
        dashboard_command([tmp_path], None, False, 0, Console(file=io.StringIO()))


def get(port: int, path: str = "/") -> Any:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    return opener.open(f"http://127.0.0.1:{port}{path}", timeout=20)


def test_a_served_page_is_drawn_anew_at_every_reload_and_nothing_else_is_served() -> None:
    drawn: list[int] = []

    def draw() -> str:
        drawn.append(1)
        return f"<p>{len(drawn)}</p>"

    with server(draw, 0) as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        port = running.server_address[1]
        assert [get(port).read(), get(port).read()] == [b"<p>1</p>", b"<p>2</p>"]
        with pytest.raises(urllib.error.HTTPError, match="404"):
            get(port, "/../../etc/passwd")
        assert running.server_address[0] == "127.0.0.1"
        with pytest.raises(RequestError, match="port"):
            server(draw, port)
        running.shutdown()
        thread.join(timeout=10)


def test_a_port_that_is_none_is_a_wrong_request() -> None:
    with pytest.raises(RequestError, match="port=70000"):
        server(str, 70000)


def test_data_inside_the_page_cannot_end_its_element() -> None:
    assert page.data("x", "</script>") == '<script type="application/json" id="x">"\\u003c/script>"</script>'
