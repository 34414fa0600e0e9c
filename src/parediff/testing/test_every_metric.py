"""Every metric, found by its YAML, keeps the contract of its family. Nothing here names one."""

from __future__ import annotations

import copy
import json
import math
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from omegaconf import DictConfig, OmegaConf

from parediff.config.catalogue import files
from parediff.config.compose import Composer
from parediff.config.request import Request, build
from parediff.errors import RequestError
from parediff.metrics.base import Metric
from parediff.sampling.batch import Batch
from parediff.testing import networks
from parediff.testing.smoke import smoke_of

METRICS = sorted(files("metric"))


@pytest.fixture(scope="module")
def every(weights: Path) -> list[DictConfig]:
    """Requests of all metrics, composed once because that takes most of their time: for images, and for classes."""
    asked = [f"metric=[{','.join(METRICS)}]", "method=[]", f"runs_dir={weights / 'runs'}"]
    asked += [setting for name in METRICS for setting in smoke_of("metric", name)]
    composer = Composer("config")
    return [composer.compose(asked), composer.compose([*asked, "model=classifier_digits"])]


def request_for(every: list[DictConfig], name: str, weights: Path) -> Request:
    """A request whose task the metric can judge, with classes or prompts where it asks for them, on small networks."""
    small = networks.overrides(every[0].metrics[name], f"metrics.{name}", weights)
    images, classes = every
    for composed, conditions in ((images, None), (images, [0, 1]), (images, ["a", "b"]), (classes, None)):
        config = copy.deepcopy(composed)
        config.metrics = {name: config.metrics[name]}
        config.workload.conditions = conditions
        for key, value in (entry.split("=", 1) for entry in small):
            OmegaConf.update(config, key, yaml.safe_load(value))
        with suppress(RequestError):
            return build(config)
    raise AssertionError(f"{name} judges nothing that ships")


@pytest.fixture(scope="module")
def classified() -> list[Batch]:
    """Four batches of a classifier's outputs."""
    small = build(Composer("config").compose(["model=classifier_digits", "workload.count=32", "workload.batch_size=8"]))
    return list(small.task.batches(small.model.load("cpu"), as_reference=True))


@pytest.fixture(scope="module", params=METRICS)
def judged(
    request: pytest.FixtureRequest, every: list[DictConfig], weights: Path, classified: list[Batch]
) -> tuple[str, Metric, list[Batch]]:
    """A metric with four batches of outputs in two blocks."""
    asked = request_for(every, request.param, weights)
    metric: Metric[Any] = next(iter(asked.metrics.values()))
    generator = torch.Generator().manual_seed(0)
    if metric.judges == "images":
        shape = (8, *(asked.model.image_shape() or (1, 8, 8)))
        drawn = [torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8) for _ in range(4)]
        labels = (asked.workload.labels or (0, 1)) * 4
        batches = [Batch(range(8 * i, 8 * i + 8), images, labels, i // 2, images) for i, images in enumerate(drawn)]
    else:
        batches = classified
    return request.param, metric, batches


def taken(metric: Metric, batches: list[Batch], *, blocks: bool) -> tuple[float | None, float | None]:
    metric.reset()
    for index, batch in enumerate(batches):
        if blocks and index == len(batches) // 2:
            metric.next_block()
        metric.take(batch, batch.outputs.flip(0))
    return metric.compute(), metric.stderr()


def test_a_metric_is_a_finite_number_with_a_direction(judged: tuple[str, Metric, list[Batch]]) -> None:
    _, metric, batches = judged
    value, _ = taken(metric, batches, blocks=False)
    assert value is not None
    assert math.isfinite(value)
    assert metric.better in ("lower", "higher")
    assert metric.section in ("quality", "fidelity")


def test_blocks_change_the_error_and_not_the_value(judged: tuple[str, Metric, list[Batch]]) -> None:
    _, metric, batches = judged
    whole, none = taken(metric, batches, blocks=False)
    in_blocks, error = taken(metric, batches, blocks=True)
    assert in_blocks == pytest.approx(whole, rel=1e-9)
    assert none is None
    assert error is None or error >= 0


def test_a_metric_forgets_when_it_is_reset(judged: tuple[str, Metric, list[Batch]]) -> None:
    _, metric, batches = judged
    assert taken(metric, batches, blocks=True) == taken(metric, batches, blocks=True)


def test_a_metric_says_what_decides_it_in_plain_values(judged: tuple[str, Metric, list[Batch]], tmp_path: Path) -> None:
    _, metric, _ = judged
    assert json.loads(json.dumps(metric.fingerprint(), allow_nan=False)) is not None
