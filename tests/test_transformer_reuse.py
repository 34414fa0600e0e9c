"""Feature reuse on transformers and video networks: what is kept, what it saves, and that keyframes are exact."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch

import pipelines
from parediff.cost import counting
from parediff.errors import RequestError
from parediff.models.diffusion.pipeline import DiffusionModel
from parediff.models.diffusion.sampler import Sampler
from parediff.reuse.cuts import cuts_of
from parediff.reuse.engine import FULL, Reuse, Step
from parediff.reuse.replacements import fill, standing_in, tensors_of
from parediff.reuse.unread import Unread
from reusing import frdiff, with_method

UNETS = ("ddpm", "ldm", "sd1", "sd2_v", "sd_img2img", "sd_inpaint", "sd_controlnet", "sdxl", "kandinsky22", "svd")
TRANSFORMERS = [name for name in pipelines.KINDS if name not in UNETS]
EVERYTHING = {"resnets": True, "attentions": True, "mlps": True}
PAIRS = Sampler("own", None, 3)


def drawn(model: DiffusionModel, name: str, sampler: Sampler = PAIRS) -> tuple[torch.Tensor, int]:
    with counting(model.denoiser) as counter:
        images = model.generate([3, 7], pipelines.conditions(name, 2), sampler)
    return images, counter.macs


@pytest.mark.parametrize("name", pipelines.params(pipelines.KINDS))
def test_frdiff_saves_work_and_keyframes_alone_change_nothing(name: str) -> None:
    model = pipelines.model(name)
    plain, full = drawn(model, name)
    every, all_full = drawn(with_method(model, frdiff(interval=1)), name)
    assert torch.allclose(every, plain, atol=1e-5)
    assert all_full == full
    reused = with_method(model, frdiff(interval=2, mixing="off", mlps=True))
    images, part = drawn(reused, name)
    assert part < full
    assert torch.isfinite(images).all()
    assert not torch.equal(images, plain)
    alone = reused.generate([7], pipelines.conditions(name, 2) and pipelines.conditions(name, 2)[1:], PAIRS)  # type: ignore[index]
    assert torch.allclose(images[1:], alone, atol=1e-3)


@pytest.mark.parametrize("name", pipelines.params(TRANSFORMERS))
@pytest.mark.parametrize("blocks", ["parts", "whole", "stack"])
def test_a_recalled_call_gives_what_was_kept_on_the_same_input(name: str, blocks: Any) -> None:
    """Reuse at the keyframe's own input is exact, and none of the kept layers runs."""
    if name == "stable_cascade" and blocks != "parts":
        pytest.skip("its blocks are refused as a whole")
    model, call = pipelines.model(name), pipelines.first_call(name)
    cuts = cuts_of(model.denoiser, **EVERYTHING, blocks=blocks)
    kept, full, first = _under(model, call, cuts, [None] * len(cuts), recall=False)
    _, part, again = _under(model, call, cuts, kept, recall=True)
    assert torch.allclose(again, first, atol=1e-5, rtol=1e-4)
    assert part < 0.6 * full
    fresh = torch.randn(call.x.shape, generator=torch.Generator().manual_seed(0))
    _, _, other = _under(model, call, cuts, kept, recall=True, x=fresh)
    assert not torch.allclose(other, first, atol=1e-3), "the input is alive"


def _under(
    model: DiffusionModel, call: Any, cuts: Sequence[Any], kept: list[Any], *, recall: bool, x: Any = None
) -> tuple[list[Any], int, torch.Tensor]:
    fill(cuts, kept)
    changes = [change for cut in cuts for change in (cut.recall if recall else cut.keep)]
    with torch.no_grad(), counting(model.denoiser) as counter, standing_in(changes):
        output = model.predict(call.x if x is None else x, call.t, call.cond)
    return tensors_of(cuts), counter.macs, output


@pytest.mark.parametrize("name", ["dit", "pixart_sigma", "sd3", "flux", "chroma"])
@pytest.mark.parametrize("alive", [None, "attention", "mlp"])
def test_what_only_kept_parts_read_is_left_out_and_changes_nothing(
    name: str, alive: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With everything recalled, and with one kind of part computed: the same output for another input."""
    model, call = pipelines.model(name), pipelines.first_call(name)
    outputs, costs = [], []
    fresh = torch.randn(call.x.shape, generator=torch.Generator().manual_seed(0))
    for leave_out in (True, False):
        if not leave_out:
            monkeypatch.setattr(Unread, "by", lambda *_: [])
        cuts = cuts_of(model.denoiser, **EVERYTHING)
        kept, _, _ = _under(model, call, cuts, [None] * len(cuts), recall=False)
        fill(cuts, kept)
        changes = [change for cut in cuts for change in (cut.keep if cut.kind == alive else cut.recall)]
        with torch.no_grad(), counting(model.denoiser) as counter, standing_in(changes):
            outputs.append(model.predict(fresh, call.t, call.cond))
        tensors_of(cuts)
        costs.append(counter.macs)
    assert torch.allclose(*outputs, atol=1e-5, rtol=1e-4)
    assert costs[0] <= costs[1]


def test_roles_say_what_is_kept() -> None:
    """Flux: two joint blocks with one attention and two feed-forwards, two single-stream ones."""
    denoiser = pipelines.model("flux").denoiser

    def kinds(**wanted: Any) -> list[str]:
        return [
            cut.kind for cut in cuts_of(denoiser, **({"resnets": True, "attentions": False, "mlps": False} | wanted))
        ]

    assert kinds(attentions=True) == ["attention"] * 4
    assert sorted(kinds(attentions=True, mlps=True)) == ["attention"] * 2 + ["branch"] * 2 + ["mlp"] * 4
    assert kinds(blocks="whole") == ["block"] * 4
    assert kinds(blocks="stack") == ["block"] * 2
    with pytest.raises(RequestError, match="residual branches"):
        kinds()


def test_a_unet_has_no_transformer_blocks_to_keep_whole() -> None:
    with pytest.raises(RequestError, match="parts is accepted"):
        with_method(pipelines.model("sd1"), frdiff(blocks="whole"))
    with pytest.raises(RequestError, match="parts is accepted"):
        with_method(pipelines.model("stable_cascade"), frdiff(blocks="whole"))


def test_a_jump_in_flow_matching_is_a_longer_euler_step() -> None:
    """Holding the velocity between steps s and s + M is exactly one step of the plain solver over both."""
    model = pipelines.model("sd3")
    prompts = pipelines.conditions("sd3", 1)

    def plan(_: Any, steps: int, __: int) -> list[Step]:
        return [FULL if step % 2 == 0 else Step(frozenset(), 0.0) for step in range(steps)]

    jumping = model.copy()
    jumping.wrap(Reuse("test", frdiff()._cuts, plan))
    held = jumping.generate([3], prompts, Sampler("own", None, 8))
    scheduler = Sampler("own", None, 8).scheduler_for(model.pipeline)
    scheduler.set_timesteps(8)
    model.options["sigmas"] = _before_shift(scheduler.sigmas[:-1:2].tolist(), scheduler.config.shift)
    every_other = model.generate([3], prompts, Sampler("own", None, 4))
    assert torch.allclose(held, every_other, atol=1e-5)


def _before_shift(sigmas: Sequence[float], shift: float) -> list[float]:
    """The noise levels that a shift s, s sigma / (1 + (s - 1) sigma), turns into these."""
    return [sigma / (shift - (shift - 1) * sigma) for sigma in sigmas]
