"""The page in a real browser: opened from disk and from its server, clicked, filtered, compared, exported, shared."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from parediff.report.dashboard.serve import Live, server
from parediff.report.dashboard.write import write_folder, write_page
from parediff.results import record as records
from parediff.results.difference import paired
from parediff.results.front import Front, build_front
from synthetic import record, scored, study, write_study

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: pip install playwright")
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed: apt-get install chromium")
BLOCKS = ([5.5, 5.7, 5.8, 5.4], [7.0, 7.25, 7.3, 6.9], [5.88, 6.1, 6.22, 5.81])
PTQ = {"ptq": {"weight_bits": 4, "activation_bits": 8}}
PROOF = {
    "layers": {"conv_in": {"weight_quantizer": {"bits": 8}, "input_quantizer": {"bits": 32, "interval": [-1.0, 2.0]}}},
    "keyframes": [0, 2, 4],
    "noise_std": [0.1, 0.2, 0.4, 0.3],
    "evil<img src=x onerror=alert(1)>": 1,
}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=BROWSER, args=["--no-sandbox", "--disable-gpu"])
        yield running
        running.close()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The synthetic study, one way with three seeds, one with a proof, one of another sampler, one that is markup."""
    root = write_study(tmp_path_factory.mktemp("runs"))
    more = [
        scored(record(PTQ, steps=25, first_seed=seed, bits=(4, 8)), fd, 21.0)
        for seed, fd in ((0, 9), (1, 9.5), (2, 10))
    ]
    more.append(replace(scored(record({"frdiff": {"interval": 2}}, steps=5), 30, 19.0), fired={"frdiff": PROOF}))
    rival = scored(record(steps=12), 6.0, 30.0)
    more.append(replace(rival, id="rival", sampler={"name": "dpmpp_2m", "steps": 12, "eta": 0.0}))
    more.append(scored(record({"<b>[red]</b>": {}}, steps=5, study="<img src=x onerror=alert(1)>"), 40, 18.0))
    for own in more:
        records.write(own, root / "more" / own.id)
    return root


@pytest.fixture(scope="module")
def folder(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder([runs], tmp_path_factory.mktemp("page")).parent


@pytest.fixture
def view(browser: Any, folder: Path) -> Iterator[Any]:
    yield from opened(browser, (folder / "index.html").as_uri())


def opened(browser: Any, address: str) -> Iterator[Any]:
    """A page of its own; a script's error, a dialog or an address outside fails the test."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, accept_downloads=True)
    page, trouble = context.new_page(), []
    page.on("pageerror", lambda error: trouble.append(str(error)))
    page.on("dialog", lambda dialog: (trouble.append(dialog.message), dialog.dismiss()))
    page.on("request", lambda asked: trouble.append(asked.url) if asked.url.startswith("https:") else None)
    page.goto(address)
    page.wait_for_selector("html[data-ready]")
    yield page
    context.close()
    assert trouble == []


def until(page: Any, truth: str) -> None:
    """Waits for a served page, whose policy forbids the page itself to evaluate a text."""
    for _ in range(300):
        if page.evaluate(truth):
            return
        page.wait_for_timeout(100)
    raise AssertionError(truth)


def ids(page: Any) -> set[str]:
    """Of the runs that are shown."""
    return set(page.evaluate("parediff.shown.map((run) => parediff.store.text('id', run))"))


def test_single_runs_of_one_seed_set_are_compared_block_by_block(browser: Any, tmp_path: Path) -> None:
    lines = [replace(own, left_out={"fd_digits": blocks}) for own, blocks in zip(study()[:2], BLOCKS, strict=False)]
    own = scored(record(PTQ, steps=40), 6.0, 30.0)
    base = {"quality": {"fd_digits": 5.6}, "left_out": {"fd_digits": BLOCKS[0]}}
    for one in (*lines, replace(own, left_out={"fd_digits": BLOCKS[2]}, baseline=base)):
        records.write(one, tmp_path / "runs" / one.id)
    front = build_front(records.find([tmp_path / "runs"]).records, "bops", "difference.fd_digits")
    assert [point.y_stderr for point in front.points] == [pytest.approx(paired([(-1, BLOCKS[0]), (1, BLOCKS[2])])[0])]
    front = build_front(records.find([tmp_path / "runs"]).records, "bops", "fd_digits", compared=lines[0].id)
    (gain,) = [one for one in front.gains if one]
    expected = front.apart[front.gains.index(gain)]
    assert expected is not None
    page = write_folder([tmp_path / "runs"], tmp_path / "page")
    for view in opened(browser, page.as_uri()):
        drawn = view.evaluate("parediff.chart.scene.fronts[0].points.map((p) => p.gain).filter((g) => g)")
        assert (drawn[0]["value"], drawn[0]["error"]) == pytest.approx((gain.value, gain.stderr), rel=1e-5)
        assert drawn[0]["pairs"] == 4
        for one in (lines[0].id, own.id):
            view.evaluate("(id) => parediff.toggle(parediff.store.byId.get(id))", one)
        view.click("#compare-open")
        away = view.evaluate(
            "([a, b]) => parediff.comparison.difference('quality.fd_digits', a, b)",
            [view.evaluate("(id) => parediff.store.byId.get(id)", one) for one in (lines[0].id, own.id)],
        )
        assert (away["value"], away["error"]) == pytest.approx((expected.value, expected.stderr), rel=1e-5)
        assert "(4 pairs)" in view.inner_text("#compare")
        assert "fd_digits − baseline" in view.inner_text("#compare")


def python_front(runs: Path, x: str, y: str) -> Front:
    return build_front([own for own in records.find([runs]).records if own.status == "finished"], x, y)


def test_fronts_volumes_and_gains_are_those_of_the_terminal(view: Any, runs: Path) -> None:
    for x, y in (("cost.bops", "quality.fd_digits"), ("cost.size_bytes", "fidelity.psnr")):
        view.select_option("#axis-x", x)
        view.select_option("#axis-y", y)
        front = python_front(runs, x, y)
        drawn = view.evaluate(
            "parediff.chart.scene.fronts.map((f) => ({volume: f.volume, reference: f.reference, "
            "points: f.points.map((p) => [p.runs.map((r) => parediff.store.text('id', r)).sort(), "
            "p.x, p.y, p.yError, p.onFront, p.gain])}))"
        )
        assert len(drawn) == 1
        assert drawn[0]["volume"] == pytest.approx(front.hypervolume)
        assert drawn[0]["reference"] == pytest.approx(list(front.reference))
        expected = {tuple(sorted(point.ids)): place for place, point in enumerate(front.points)}
        assert len(drawn[0]["points"]) == len(expected)
        for own, px, py, error, on_front, gain in drawn[0]["points"]:
            point, known = front.points[expected[tuple(own)]], front.gains[expected[tuple(own)]]
            assert (px, py, error) == pytest.approx((point.x, point.y, point.y_stderr))
            assert on_front == front.on_front[expected[tuple(own)]]
            assert (gain is None) == (known is None)
            if known:
                assert (gain["value"], gain["error"]) == pytest.approx((known.value, known.stderr))
                assert (gain["verdict"], gain["rival"]) == (known.verdict, known.rival)


def test_the_page_filters_groups_sorts_and_comes_back_to_the_same_view(view: Any) -> None:
    view.click("#choices summary:has-text('methods')")
    view.check("#choices label:has-text('ptq') input")
    assert len(ids(view)) == 8
    view.keyboard.press("Escape")
    view.fill("#search", "w4a8")
    view.wait_for_function("parediff.shown.length === 4")
    view.select_option("#group", "bits")
    assert "bits: W4A8" in view.inner_text("#table .slick-row.group")
    view.select_option("#sort-key", "-quality.fd_digits")
    view.focus("#table .slick-header-column[data-id='label']")
    view.keyboard.press("Shift+Enter")
    order = "parediff.table.rows.filter((r) => r.run !== undefined).map((r) => parediff.store.text('id', r.run))"
    before, shown = view.evaluate(order), ids(view)
    assert view.evaluate("parediff.state.sort.map((s) => s.key)") == ["quality.fd_digits", "label"]
    values = view.evaluate("parediff.table.rows.slice(1).map((r) => parediff.store.number('quality.fd_digits', r.run))")
    assert values == sorted(values, reverse=True)
    view.reload()
    view.wait_for_selector("html[data-ready]")
    assert (view.evaluate(order), ids(view), view.input_value("#search")) == (before, shown, "w4a8")
    view.click("#clear")
    view.evaluate(
        "const slider = document.querySelector(`[data-key='cost.bops'] input`);"
        "slider.value = 120; slider.dispatchEvent(new Event('input'))"
    )
    assert 0 < len(ids(view)) < 15


def test_runs_are_compared_with_paired_errors_and_their_pictures(view: Any, runs: Path) -> None:
    first, second = (own.id for own in study()[4:6])
    for own in (first, second):
        view.evaluate("(id) => parediff.toggle(parediff.store.byId.get(id))", own)
    view.click("#compare-open")
    told = view.inner_text("#compare")
    assert "methods.ptq.weight_bits" in told
    assert view.locator("#compare img").count() == 2
    view.select_option("#picture-mode", "difference")
    assert view.evaluate("getComputedStyle(document.querySelector('.stack img + img')).mixBlendMode") == "difference"
    view.select_option("#picture-mode", "flicker")
    view.click("#flip")
    assert view.evaluate("getComputedStyle(document.querySelector('.stack img + img')).visibility") == "hidden"
    three = [own for own in records.find([runs / "more"]).records if own.methods == ["ptq"]]
    away = view.evaluate(
        "(ids) => parediff.comparison.difference('quality.fd_digits', ...ids.map((id) => parediff.store.byId.get(id)))",
        [three[0].id, three[1].id],
    )
    assert (away["value"], away["pairs"]) == (pytest.approx(0), 3)


def test_a_run_opens_with_its_record_its_drawings_and_its_picture(view: Any) -> None:
    run = next(own for own in study() if own.methods)
    view.evaluate("(id) => parediff.open(parediff.store.byId.get(id))", run.id)
    view.wait_for_selector("#details img.sheet")
    view.wait_for_function("document.querySelector('#details img.sheet').naturalWidth === 64")
    assert run.id in view.inner_text("#details")
    assert f"run={run.id}" in view.url
    proof = view.evaluate("parediff.state.run = null, [...parediff.store.byId.keys()]")
    frdiff = view.evaluate(
        "[...parediff.store.byId].find(([, run]) => parediff.store.text('methods', run) === 'frdiff')[1]"
    )
    view.evaluate("(run) => parediff.open(run)", frdiff)
    view.wait_for_selector("#details svg")
    told = view.inner_text("#details")
    assert all(
        words in told
        for words in ("Bits per layer", "Intervals of inputs", "Reuse schedule", "noise_std: 0.100 to 0.400")
    )
    assert view.evaluate("document.querySelector('#details svg title').textContent") == "conv_in: weight 8 bits"
    assert len(proof) == 15


def test_what_is_seen_can_be_taken_away(view: Any, runs: Path) -> None:
    def taken(kind: str) -> str:
        view.click("#exports summary")
        with view.expect_download() as got:
            view.click(f"[data-export='{kind}']")
        return Path(got.value.path()).read_text(encoding="utf-8", errors="replace")

    rows = list(csv.DictReader(io.StringIO(taken("csv"))))
    known = {own.id: own for own in records.find([runs]).records}
    assert {row["id"] for row in rows} == known.keys()
    for row in rows:
        own = known[row["id"]]
        assert float(row["cost.bops"]) == own.cost["bops"]
        assert row["quality.fd_digits"] == ("" if not own.quality else str(own.quality["fd_digits"]).removesuffix(".0"))
        assert row["methods"] == " + ".join(own.methods)
    content = json.loads(taken("json"))
    assert {row["id"] for row in content["runs"]} == known.keys()
    assert content["fronts"][0]["hypervolume"] > 0
    svg = taken("svg")
    assert svg.startswith("<svg")
    assert "Fréchet distance" in svg
    assert "onerror=alert(1)>" not in svg
    assert taken("png")[1:4] == "PNG"


def test_the_keyboard_reaches_points_and_every_control_has_a_name(view: Any) -> None:
    view.focus("#chart")
    view.keyboard.press("ArrowRight")
    view.keyboard.press("ArrowRight")
    assert view.is_visible("#tip")
    view.keyboard.press("Space")
    assert len(view.evaluate("parediff.state.selected")) == 1
    view.keyboard.press("Enter")
    view.wait_for_selector("#details a")
    nameless = view.evaluate(
        "[...document.querySelectorAll('button, select, input, a[href], summary')].filter((e) => e.checkVisibility())"
        ".filter((e) => !(e.textContent.trim() || e.getAttribute('aria-label') || e.labels?.length))"
        ".map((e) => e.outerHTML)"
    )
    assert nameless == []
    assert view.get_attribute("#chart", "role") == "img"
    assert "points are on the front" in view.inner_text("#chart-summary")


CONTRASTS = """() => {
  const numbers = (text) => text.match(/[\\d.]+/g).map(Number);
  const linear = (v) => v <= 10.31 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4;
  const light = (rgb) => { const [x, y, z] = rgb.slice(0, 3).map(linear);
    return 0.2126 * x + 0.7152 * y + 0.0722 * z; };
  const ground = (e) => { for (; e; e = e.parentElement) { const own = numbers(getComputedStyle(e).backgroundColor);
    if (own.length < 4 || own[3] > 0.99) return own; } return [255, 255, 255]; };
  const found = [];
  for (const e of document.querySelectorAll('body *')) {
    if (!e.checkVisibility() || e.disabled || e.closest('svg, noscript')) continue;
    if (![...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim())) continue;
    const [a, b] = [light(numbers(getComputedStyle(e).color)), light(ground(e))].sort((p, q) => q - p);
    if ((a + 0.05) / (b + 0.05) < 4.5) found.push(`${e.tagName} ${e.className} ${e.textContent.slice(0, 40)}`);
  }
  return found;
}"""


def test_text_is_readable_and_nothing_is_cut_at_390_pixels(view: Any) -> None:
    view.evaluate("parediff.open(0)")
    view.wait_for_selector("#details a")
    for scheme in ("light", "dark"):
        view.emulate_media(color_scheme=scheme)
        view.wait_for_function(f"document.documentElement.dataset.theme === '{scheme}'")
        assert view.evaluate(CONTRASTS) == [], scheme
    view.set_viewport_size({"width": 390, "height": 800})
    view.wait_for_function("document.documentElement.scrollWidth <= 390")  # tables take the new width a moment later
    title = view.locator("#axis-y-title")
    assert title.evaluate("(e) => e.scrollWidth <= e.clientWidth")
    assert "quality.fd_digits" in title.inner_text()


def test_one_file_opens_from_disk_with_details_and_pictures(browser: Any, runs: Path, tmp_path: Path) -> None:
    file = write_page([runs], tmp_path / "page.html")
    for page in opened(browser, f"{file.as_uri()}#x=cost.size_bytes&y=fidelity.psnr&is.methods=ptq"):
        assert page.input_value("#axis-x") == "cost.size_bytes"
        assert len(ids(page)) == 8
        run = next(own for own in study() if own.methods)
        page.evaluate("(id) => parediff.open(parediff.store.byId.get(id))", run.id)
        until(page, "document.querySelector('#details img.sheet')?.naturalWidth === 64")


def test_a_page_begins_with_what_the_study_lays_out_and_no_accuracy_on_a_log_scale(
    browser: Any, tmp_path: Path
) -> None:
    for own, top1 in zip(study()[:3], (0.09, 0.5, 0.9), strict=False):
        asked = dict(own.config) | {"front": {"x": "nfe", "y": "quality.top1"}}
        one = replace(own, config=asked, quality={"top1": top1}, better=dict(own.better) | {"top1": "higher"})
        records.write(one, tmp_path / "runs" / one.id)
    page = write_folder([tmp_path / "runs"], tmp_path / "page")
    for view in opened(browser, page.as_uri()):
        seen = view.evaluate("[parediff.state.x, parediff.state.y, parediff.chart.scene.logY]")
        assert seen == ["cost.nfe", "quality.top1", False]


def test_the_images_that_calibrated_are_shown_with_their_run(browser: Any, tmp_path: Path) -> None:
    folder = next(own.parent for own in sorted(write_study(tmp_path / "runs").glob("*/*/samples.png")))
    (folder / records.CALIBRATION_SHEET).write_bytes((folder / "samples.png").read_bytes())
    file = write_page([tmp_path / "runs"], tmp_path / "page.html")
    for page in opened(browser, file.as_uri()):
        page.evaluate("(id) => parediff.open(parediff.store.byId.get(id))", folder.name)
        until(page, "document.querySelector('#details img[alt^=\"Calibration images\"]')?.naturalWidth === 64")


def test_a_served_page_follows_a_running_sweep(browser: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from parediff.results.progress import report, write_plan

    monkeypatch.setattr("parediff.report.dashboard.serve.RESTS_S", 0.1)
    monkeypatch.setattr("parediff.report.dashboard.serve.PATIENCE", 1.0)
    runs, later = tmp_path / "runs", scored(record(steps=7), 9, 20)
    (runs / "demo").mkdir(parents=True)
    first = study()[0]
    write_plan(runs / "demo", {first.id: "ddim 50 steps", later.id: "ddim 7 steps [a,b]"})
    live = Live([runs])
    live._assets = {name: text.replace("POLL_MS = 2000", "POLL_MS = 100") for name, text in live._assets.items()}
    with server(live.answer, 0) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        for page in opened(browser, f"http://localhost:{running.server_address[1]}/"):
            assert "0 of 2 finished" in page.inner_text("#studies")
            records.write(first, runs / "demo" / first.id)
            report(runs / "demo" / later.id, "sample", 5, 10)
            until(page, "parediff.store.count === 1")
            until(page, "document.querySelector('#studies').textContent.includes('[a,b]')")
            assert "sample 5/10" in page.inner_text("#studies")
            page.evaluate("parediff.go({ search: 'ddim' })")
            records.write(later, runs / "demo" / later.id)
            until(page, "parediff.store.count === 2")
            assert page.evaluate("parediff.state.search") == "ddim"
            assert not page.is_visible("#studies")
        running.shutdown()


@pytest.mark.slow
def test_ten_thousand_runs_keep_to_the_limits() -> None:
    from rich.console import Console

    from parediff.bench.dashboard import main

    assert main([], Console()) == 0


@pytest.mark.slow
@pytest.mark.skipif("PAREDIFF_RUNS" not in os.environ, reason="set PAREDIFF_RUNS to the folder of a real study")
def test_a_real_study_opens(browser: Any, tmp_path: Path) -> None:
    found = records.find([os.environ["PAREDIFF_RUNS"]]).records
    index = write_folder([os.environ["PAREDIFF_RUNS"]], tmp_path)
    for page in opened(browser, index.as_uri()):
        assert ids(page) == {own.id for own in found}
