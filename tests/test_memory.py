"""Images stream: what judging them takes does not grow with their number."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from parediff.metrics.base import Metric
from parediff.metrics.extractors import Extractor
from parediff.metrics.frechet import FrechetToUncompressed
from parediff.metrics.psnr import PeakSignalToNoise
from parediff.metrics.ssim import StructuralSimilarity
from parediff.pipeline.evaluate import evaluate
from parediff.sampling.batch import Batch

FEW, MANY, AT_ONCE, SIDE = 1_000, 20_000, 200, 32
ALLOWED = 8 * 2**20  # bytes; the images alone are 20 MB in 8 bits and 80 MB in float32


class Thumbnail(Extractor):
    """4x4 grey levels."""

    name = "thumbnail"

    def features(self, images: Tensor) -> Tensor:
        return torch.nn.functional.avg_pool2d(images.float(), SIDE // 4).flatten(1)

    def fingerprint(self) -> dict[str, Any]:
        return {}


class Drawing:
    """A task whose images cost nothing to draw."""

    count = MANY

    def batches(self, _: Any, *, as_reference: bool) -> Iterator[Batch]:
        for start in range(0, self.count, AT_ONCE):
            images = drawn(start)
            yield Batch(range(start, start + AT_ONCE), images, None, start * 4 // self.count, images)

    def few(self, _: Any, count: int, *, as_reference: bool) -> Callable[[], Any]:
        return lambda: drawn(0)[:count]


def drawn(start: int) -> Tensor:
    generator = torch.Generator().manual_seed(start)
    return torch.randint(0, 256, (AT_ONCE, 1, SIDE, SIDE), generator=generator, dtype=torch.uint8)


def own_bytes() -> int:
    """Memory of this process that stands for no file."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


@pytest.mark.slow
def test_memory_is_flat_from_a_thousand_to_twenty_thousand_images(tmp_path: Path) -> None:
    reference = np.lib.format.open_memmap(
        tmp_path / "reference.npy", mode="w+", dtype=np.uint8, shape=(MANY, 1, SIDE, SIDE)
    )
    for start in range(0, MANY, AT_ONCE):
        reference[start : start + AT_ONCE] = 255 - drawn(start).numpy()
    metrics: dict[str, Metric[Any]] = {
        "fd": FrechetToUncompressed(extractor=Thumbnail()),
        "psnr": PeakSignalToNoise(),
        "ssim": StructuralSimilarity(sigma=None),
    }
    taken: dict[int, int] = {}
    task: Any = Drawing()
    result = evaluate(task, None, metrics, {}, reference, lambda batch: taken.update({batch.rows.stop: own_bytes()}))
    later = [value for images, value in taken.items() if images > FEW]
    assert max(later) - taken[FEW] < ALLOWED
    assert set(result.fidelity) == set(metrics)
