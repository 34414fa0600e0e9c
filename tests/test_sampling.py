"""What is shown and kept of sampled images, pixel by pixel."""

from __future__ import annotations

import functools
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import tiny
from parediff.errors import RequestError
from parediff.models.finite import NotFinite
from parediff.sampling.batch import frames
from parediff.sampling.blocks import Blocks
from parediff.sampling.image_grid import sheet
from parediff.sampling.images import images
from parediff.sampling.workload import Workload


def shown(made: Tensor, **options: Any) -> Tensor:
    """The sheet's pixels, HWC."""
    return torch.from_numpy(np.asarray(Image.open(io.BytesIO(sheet(made, **options)))).copy())


def test_a_sheet_holds_every_image_enlarged_in_its_place_and_is_white_between() -> None:
    made = torch.arange(5 * 3 * 4 * 6).remainder(251).reshape(5, 3, 4, 6).byte()
    expected = torch.full((2 * (8 + 2) + 2, 3 * (12 + 2) + 2, 3), 255, dtype=torch.uint8)
    for index, image in enumerate(made):  # 7 of 4 pixels are two whole ones
        top, left = 2 + 10 * (index // 3), 2 + 14 * (index % 3)
        big = image.permute(1, 2, 0).repeat_interleave(2, 0).repeat_interleave(2, 1)
        expected[top : top + 8, left : left + 12] = big
    assert torch.equal(shown(made, columns=3, least_side=7, gap=2), expected)


def test_large_images_stay_as_they_are_and_grey_ones_become_colours() -> None:
    made = torch.arange(50 * 48).remainder(251).reshape(1, 1, 48, 50).byte()
    coloured = made[0].permute(1, 2, 0).expand(-1, -1, 3)
    assert torch.equal(shown(made), torch.nn.functional.pad(coloured, (0, 0, 2, 2, 2, 2), value=255))
    assert shown(torch.zeros(9, 1, 8, 8, dtype=torch.uint8)).shape == (2 * 50 + 2, 8 * 50 + 2, 3)


def test_the_frames_of_videos_come_one_after_another() -> None:
    videos = torch.arange(2 * 3 * 1 * 2 * 2).reshape(2, 3, 1, 2, 2)
    assert torch.equal(frames(videos), torch.cat([videos[0], videos[1]]))
    images = videos[0]
    assert frames(images) is images


def test_one_condition_is_enough_and_none_is_refused(tmp_path: Path) -> None:
    assert Workload(0, 2, 2, conditions=(3,)).labels == (3,)
    (tmp_path / "empty.txt").write_text("\n \n")
    for conditions in ((), str(tmp_path / "empty.txt")):
        with pytest.raises(RequestError, match="at least one"):
            Workload(0, 2, 2, conditions=conditions)


def test_kept_batches_are_dropped_where_the_first_comes_out_differently(tmp_path: Path) -> None:
    blocks, made = Blocks(tmp_path / "blocks"), torch.arange(8, dtype=torch.uint8).reshape(2, 4)
    first, second = range(0, 2), range(2, 4)
    for rows in (first, second):
        blocks.keep(rows, made)
    assert blocks.kept(first) is None  # always drawn again
    blocks.keep(first, made)
    assert torch.equal(blocks.kept(second), made)  # type: ignore[arg-type]
    blocks.keep(first, made + 1)
    assert blocks.kept(second) is None


def test_a_sampler_that_breaks_is_told_from_a_network_that_does() -> None:
    model = tiny.unconditional_model()
    generate, whole = model.generate, Workload(first_seed=0, count=2, batch_size=2)
    model.generate = lambda *args: generate(*args) * float("nan")  # type: ignore[method-assign]
    with pytest.raises(NotFinite, match="the network's outputs are finite, what follows them is not"):
        next(images(model, whole, tiny.DDIM))


def test_the_input_that_a_sampler_made_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.unconditional_model()
    model.denoiser.forward = lambda **given: (torch.nan_to_num(given["sample"]),)  # it has no layer that could be named
    kind = type(tiny.DDIM.scheduler_for(model.pipeline))
    step, taken = kind.step, []

    @functools.wraps(step)
    def breaking(self: Any, *args: Any, **kwargs: Any) -> Any:
        taken.append(1)
        found = step(self, *args, **kwargs)
        made = found[0] if isinstance(found, tuple) else found.prev_sample
        made.mul_(float("nan") if len(taken) % tiny.DDIM.steps == 2 else 1)
        return found

    monkeypatch.setattr(kind, "step", breaking)
    with pytest.raises(NotFinite, match=r"first at step 2 \(t = \d+\), in its input, which the sampler made"):
        next(images(model, Workload(first_seed=0, count=2, batch_size=2), tiny.DDIM))


def test_a_run_that_was_cut_off_anywhere_draws_what_is_missing_in_its_place(tmp_path: Path) -> None:
    model, whole = tiny.unconditional_model(), Workload(first_seed=0, count=4, batch_size=1)
    expected = [batch.outputs for batch in images(model, whole, tiny.DDIM)]
    for kept in (1, 2, 3):
        blocks = Blocks(tmp_path / str(kept))
        for row in (0, kept):
            blocks.keep(range(row, row + 1), expected[row])
        drawn = [batch.outputs for batch in images(model, whole, tiny.DDIM, blocks)]
        assert all(map(torch.equal, drawn, expected)), kept
