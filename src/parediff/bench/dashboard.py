"""The page at ten thousand runs: seconds to build it, to build it again, to open it, and to answer a click.

Records are generated: methods, bits, steps, seeds, costs and worths vary, each with a config, a proof of its layers and
a sheet of samples. The limits that a build is held to stand in Settings. Where a browser and Playwright are installed
the page is opened in it, from disk; else that part is left out, and the table says so.
"""

from __future__ import annotations

import json
import math
import os
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from parediff.bench.settings import settings_from
from parediff.errors import RequestError
from parediff.provenance import fingerprint
from parediff.results.record import NAME, Record

METHODS = (["ptq"], ["tdq"], ["qncd", "ptq"], ["frdiff"], ["ptq", "frdiff"], ["nipq"], ["deepcache"], ["ptq", "ptqd"])
STEPS, SAMPLERS, BITS = (5, 10, 20, 25, 50), ("ddim", "dpmpp_2m"), (4, 6, 8)
DETAILS = {"model": "generated", "workload": {"count": 1000}}
BROWSERS = ("/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome")
MIB = 2**20


@dataclass(frozen=True)
class Settings:
    """How many records, what a record holds, and the limits."""

    records: int = 10_000
    more: int = 10  # added before the second build
    layers: int = 12  # in the proof of each compressed run
    picture: int = 64  # pixels, each way
    build_s: float = 20.0
    rebuild_s: float = 1.0
    open_s: float = 3.0
    click_s: float = 0.2
    page_bytes: int = 2_000_000
    browser: bool = True
    folder: str | None = None  # where records and page stay; a temporary one otherwise

    def __post_init__(self) -> None:
        for name in ("records", "picture", "layers"):
            if getattr(self, name) < 1:
                raise RequestError(name, getattr(self, name), "1 or more is accepted")


@dataclass(frozen=True)
class Row:
    """One figure; `limit` is None where nothing is promised."""

    what: str
    value: float | None
    limit: float | None
    unit: str

    @property
    def holds(self) -> bool:
        return self.value is None or self.limit is None or self.value <= self.limit


def main(overrides: Sequence[str], console: Any) -> int:
    """0 where every limit holds."""
    settings = settings_from(Settings, overrides)
    with tempfile.TemporaryDirectory() as temporary:
        rows = list(measure(settings, Path(settings.folder or temporary)))
    console.print(_table(rows, settings))
    return 0 if all(row.holds for row in rows) else 1


def measure(settings: Settings, folder: Path) -> Iterator[Row]:
    """Figures in the order in which they are measured; seconds of building are this process's own."""
    from parediff.report import page
    from parediff.report.dashboard.write import write_folder

    runs, target = folder / "runs", folder / "page"
    _write(runs, range(settings.records), settings)
    bare = sum(map(len, page.assets().values())) + len(page.linked(""))
    yield Row("page without data", bare, settings.page_bytes, "bytes")
    limit = settings.build_s if settings.records <= Settings.records else None
    yield Row("built", _seconds(lambda: write_folder([runs], target)), limit, "s")
    yield Row("data in the page", sum(path.stat().st_size for path in (target / "data").glob("*.js")), None, "bytes")
    _write(runs, range(settings.records, settings.records + settings.more), settings)
    again = _seconds(lambda: write_folder([runs], target))
    yield Row(f"built again after {settings.more} new", again, settings.rebuild_s if limit else None, "s")
    yield from _opened(target / "index.html", settings)


def _seconds(act: Callable[[], Any]) -> float:
    """CPU seconds: what one core takes, whatever else the machine does."""
    start = time.process_time()
    act()
    return time.process_time() - start


def _opened(index: Path, settings: Settings) -> Iterator[Row]:
    """What a reader waits for, in a browser: the clock on the wall, and what the limits hold, the page's own work."""
    browser = next((path for path in BROWSERS if os.access(path, os.X_OK)), None)
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        browser = None
    if browser is None or not settings.browser:
        yield Row("in a browser: not measured, none is installed with Playwright", None, None, "")
        return
    with sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        view = running.new_page(viewport={"width": 1400, "height": 900})
        thread = Thread(view)
        start = time.perf_counter()
        view.goto(index.resolve().as_uri())
        view.wait_for_selector("html[data-ready]", timeout=120_000)
        yield Row("opened, until it can be used: wall clock", time.perf_counter() - start, None, "s")
        yield Row("opened, until it can be used: its main thread", thread.seconds(), settings.open_s, "s")
        for what, change in CLICKS.items():
            taken = [(view.evaluate(CLICK, change) / 1000, thread.seconds()) for _ in range(5)]
            yield Row(f"{what}: wall clock", min(wall for wall, _ in taken), None, "s")
            yield Row(f"{what}: main thread", min(own for _, own in taken) / 2, settings.click_s, "s")
        yield Row("pictures loaded before any is seen", view.evaluate(PICTURES), 0, "pictures")
        running.close()


class Thread:
    """CPU seconds of a page's main thread since it was last asked, whatever else the machine does."""

    def __init__(self, view: Any) -> None:
        self._session = view.context.new_cdp_session(view)
        self._session.send("Performance.enable", {"timeDomain": "threadTicks"})
        self._before = self._now()

    def _now(self) -> float:
        metrics = self._session.send("Performance.getMetrics")["metrics"]
        return next(metric["value"] for metric in metrics if metric["name"] == "TaskDuration")

    def seconds(self) -> float:
        before, self._before = self._before, self._now()
        return max(0.0, self._before - before)


PICTURES = "performance.getEntriesByType('resource').filter((e) => e.name.includes('/pictures/')).length"
CLICKS = {
    "click on an axis": '[["x", "cost.size_bytes"], ["x", "cost.bops"]]',
    "filter": '[["filters", {"methods": ["ptq"]}], ["filters", {}]]',
    "sort": '[["sort", [{"key": "quality.fd_digits", "ascending": true}]], ["sort", []]]',
}
# There and back: the main thread's time is that of two clicks.
CLICK = """async (told) => {
  const [there, back] = JSON.parse(told);
  const painted = () => new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
  await painted();
  const start = performance.now();
  parediff.go({ [there[0]]: there[1] });
  await painted();
  const taken = performance.now() - start;
  parediff.go({ [back[0]]: back[1] });
  await painted();
  return taken;
}"""


def _table(rows: Sequence[Row], settings: Settings) -> Any:
    from rich.table import Table

    table = Table(title=f"{settings.records:,} records; building in CPU seconds of one core")
    for name in ("what", "measured", "limit", ""):
        table.add_column(name, justify="left" if name in ("what", "") else "right")
    for row in rows:
        value = "" if row.value is None else f"{row.value:,.3f}" if row.unit == "s" else f"{row.value:,.0f}"
        limit = "" if row.limit is None else f"{row.limit:,g}"
        table.add_row(row.what, value, limit, row.unit if row.holds else f"[red]{row.unit}: too much[/red]")
    return table


def _write(runs: Path, indices: Sequence[int], settings: Settings) -> None:
    """Runs on disk, without the care that real ones are written with."""
    from PIL import Image

    for index in indices:
        made = generated(index, settings.layers)
        folder = runs / made.study / made.id
        folder.mkdir(parents=True, exist_ok=True)
        pixels = random.Random(index).randbytes((settings.picture // 4) ** 2)
        sheet = Image.frombytes("L", (settings.picture // 4,) * 2, pixels).resize((settings.picture,) * 2)
        sheet.save(folder / "samples.png")
        (folder / NAME).write_text(json.dumps(made.to_json(), indent=2), encoding="utf-8")


def generated(index: int, layers: int) -> Record:
    """A run that looks like a study's; equal indices make equal runs."""
    chance = random.Random(index)
    methods = [] if index % 25 == 0 else chance.choice(METHODS)
    steps, sampler = chance.choice(STEPS), chance.choice(SAMPLERS)
    weight, activation = (chance.choice(BITS), chance.choice(BITS)) if methods else (32, 32)
    macs = 1e9 * steps * chance.uniform(0.4, 1.0) if methods else 1e9 * steps
    worth = 2 + 40 / steps + (60 / weight**2 + 90 / activation**2) * bool(methods) + chance.expovariate(1)
    config = _config(index, methods, steps, sampler, (weight, activation), chance)
    return Record(
        id=fingerprint([index, "generated"])[:12],
        study=f"study-{index % 12}",
        status="failed" if index % 97 == 96 else "finished",
        error="RuntimeError: no layer matched" if index % 97 == 96 else None,
        protocol=fingerprint(DETAILS),
        protocol_details=DETAILS,
        model="generated",
        methods=list(methods),
        sampler=config["sampler"],
        workload={"first_seed": config["workload"]["first_seed"], "count": 1000, "conditions": None},
        quality={"fd_digits": worth},
        fidelity={"psnr": 50 - 10 * math.log10(worth), "ssim": 1 / (1 + worth / 40)},
        stderr={"fd_digits": worth * 0.03, "psnr": 0.2, "ssim": 0.01},
        cost=_cost(macs, steps, weight, activation, chance),
        baseline={
            "quality": {"fd_digits": 5.0},
            "left_out": {"fd_digits": _left_out(5.0, chance)},
            "cost": _cost(5e10, 50, 32, 32, chance),
        },
        fired={name: {"share_of_layers": 0.95, "layers": _layers(layers, weight, activation)} for name in methods},
        config=config,
        code={"version": "0.1.0", "commit": fingerprint(index % 3) * 2, "dirty": False},
        environment={"python": "3.11.9", "cores": 2, "packages": {"torch": "2.14.1"}},
        seconds={"compress": chance.random() * 9, "sample": chance.random() * 90},
        better={"fd_digits": "lower", "psnr": "higher", "ssim": "higher"},
        units={
            "fd_digits": ["", "Fréchet distance"],
            "bops": ["BOPs", "bit operations per image"],
            "size_bytes": ["B", "size"],
        },
        left_out={"fd_digits": _left_out(worth, chance), "psnr": _left_out(20.0, chance)},
    )


def _left_out(value: float, chance: random.Random) -> list[float]:
    """A number without each of four seed blocks."""
    return [value * chance.gauss(1, 0.02) for _ in range(4)]


def _cost(macs: float, steps: int, weight: int, activation: int, chance: random.Random) -> dict[str, Any]:
    return {
        "macs": macs,
        "bops": macs * weight * activation,
        "nfe": float(steps),
        "size_bytes": 700_000 * weight // 8,
        "latency_s": macs / 1e11 * chance.uniform(0.8, 1.3),
        "peak_memory_bytes": 41_000_000,
    }


def _layers(count: int, weight: int, activation: int) -> dict[str, Any]:
    sides = {"weight_quantizer": weight, "input_quantizer": activation}
    return {
        f"down_blocks.{place}.resnets.0.conv1": {
            side: {"bits": bits, "grid": "affine", "step": [0.01, 0.02], "interval": [-1.0 - place / 9, 1.0]}
            for side, bits in sides.items()
        }
        for place in range(count)
    }


def _config(
    index: int, methods: Sequence[str], steps: int, sampler: str, bits: tuple[int, int], chance: random.Random
) -> dict[str, Any]:
    own = {"weight_bits": bits[0], "activation_bits": bits[1], "rounding": chance.choice(["nearest", "adaptive"])}
    return {
        "seed": index % 3,
        "study": f"study-{index % 12}",
        "model": {
            "name": "generated",
            "path": "assets://generated",
            "unet": {f"width_{place}": 32 for place in range(30)},
        },
        "methods": {name: {**own, **{f"setting_{place}": place / 7 for place in range(8)}} for name in methods},
        "sampler": {"name": sampler, "steps": steps, "eta": 0.0},
        "workload": {"first_seed": 1000 * (index % 3), "count": 1000, "blocks": 4, "batch_size": 250},
        "metrics": {name: {"_target_": f"parediff.metrics.{name}", "split": "train"} for name in ("fd_digits", "psnr")},
        "calibration": {"first_seed": 10**9, "count": chance.choice([32, 64, 128]), "rate": round(chance.random(), 3)},
    }
