"""TDQ's optional parts: the learned offset (Asym, tdq.md section 2) and the fit to block outputs (section 4)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

import tiny
from parediff.calibration.base import LazyCalls
from parediff.errors import RequestError
from parediff.models.diffusion.door import Call
from parediff.models.diffusion.pipeline import DiffusionModel
from parediff.quantization.generated import Generated
from parediff.quantization.grid import Grid
from parediff.quantization.intervals import Offset, fold, offsets_of
from parediff.quantization.quantizer import Quantizer
from parediff.quantization.reconstruction import Data, units
from parediff.training.quantization_aware import QuantizationAware
from test_tdq import CALIBRATION, _draw, fitted, method


def test_an_offset_moves_the_grid_and_not_its_steps() -> None:
    quantizer = Quantizer(Grid(4))
    quantizer.fill(torch.tensor(0.5))
    offset = Offset(quantizer)
    offset.beta.data.fill_(3.0)
    values = torch.tensor([3.0, 3.2, 3.3, -100.0, 100.0])
    assert torch.allclose(offset(values), torch.tensor([3.0, 3.0, 3.5, -0.5, 6.5]))


def test_its_gradient_is_the_share_that_is_clipped() -> None:
    """d/dbeta [q(x - beta) + beta] = 1 - 1 inside, 1 where x is clipped."""
    quantizer = Quantizer(Grid(4))
    quantizer.fill(torch.tensor(0.5))
    offset = Offset(quantizer)
    offset(torch.tensor([0.1, 0.7, 50.0, 60.0, -70.0])).sum().backward()
    assert float(offset.beta.grad) == pytest.approx(3.0)


def test_an_offset_starts_at_the_mean_and_serves_what_is_not_behind_silu() -> None:
    model = tiny.unconditional_model()
    fitted(model, method(offset="learned"))
    offsets = offsets_of(model.denoiser)
    assert offsets
    assert all(offset.quantizer.grid.signed for offset in offsets.values())
    path, offset = next(iter(offsets.items()))
    seen: list[Tensor] = []
    plain = tiny.unconditional_model()
    layer = plain.denoiser.get_submodule(path.rpartition(".input_quantizer")[0])
    layer.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    for call in CALIBRATION.record(plain, tiny.DDIM):
        seen.clear()
        plain.predict(call.x, call.t, call.cond)
    assert float(offset.beta) == pytest.approx(float(torch.cat(seen).mean()), abs=0.3 * float(torch.cat(seen).std()))
    assert any(entry["offset"] == float(offset.beta) for entry in _told(model))
    assert _draw(model).isfinite().all()


def _told(model: DiffusionModel) -> Iterator[dict]:
    for layer in method(offset="learned").fired(model)["layers"].values():
        yield from (entry for entry in layer.values() if "offset" in entry)


def test_32_bits_pass_an_offset_bit_by_bit() -> None:
    model = tiny.unconditional_model()
    images = _draw(model)
    fitted(model, method(offset="learned", weight_bits=32, activation_bits=32))
    assert torch.equal(_draw(model), images)


def test_offsets_learn_slowly_and_without_decay() -> None:
    model = tiny.unconditional_model()
    tdq = method(offset="learned", mode="qat")
    tdq.prepare(model)
    learner = QuantizationAware(model.denoiser, model.pipeline.scheduler, tdq.training_recipe, seed=0)
    slow, generators, _ = learner.parameter_groups()
    betas = {id(offset.beta) for offset in offsets_of(model.denoiser).values()}
    assert betas
    assert betas <= {id(parameter) for parameter in slow["params"]}
    assert slow["weight_decay"] == 0.0
    inside = {id(p) for m in model.denoiser.modules() if isinstance(m, Generated) for p in m.parameters()}
    assert {id(parameter) for parameter in generators["params"]} == inside


def _held_out(model: DiffusionModel, calls: list[Call]) -> dict[str, float]:
    return {
        path: Data.of(model, path, calls).held_out_error(model.denoiser.get_submodule(path), 2.4)
        for path in units(model, calls[0])
    }


def test_the_second_stage_changes_generators_only_and_brings_blocks_closer() -> None:
    one = tiny.unconditional_model()
    method(activation_bits=3).prepare(one)
    other = one.copy()
    calls = list(LazyCalls(CALIBRATION, tiny.unconditional_model(), tiny.DDIM))
    method(activation_bits=3).calibrate(one, calls)
    method(activation_bits=3, block_iterations=40, block_learning_rate=1e-3).calibrate(other, calls)
    first, second = one.denoiser.state_dict(), other.denoiser.state_dict()
    changed = {name for name in first if not torch.equal(first[name], second[name])}
    assert changed
    assert all(".source.hidden." in name or ".source.last." in name for name in changed)
    before, after = _held_out(one, calls), _held_out(other, calls)
    first_unit = next(iter(before))  # nothing quantised stands before it, so both see the same input
    assert after[first_unit] <= before[first_unit]
    assert sum(after.values()) < sum(before.values())


def test_after_the_second_stage_tables_are_still_the_generators() -> None:
    model = tiny.unconditional_model()
    fitted(model, method(block_iterations=5))
    twin = model.copy()
    for module in twin.denoiser.modules():
        if isinstance(module, Generated):
            module.table = None
    fold(twin.denoiser)
    assert torch.equal(_draw(model), _draw(twin))


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"offset": "fixed"}, "offset"),
        ({"block_iterations": -1}, "block_iterations"),
        ({"block_learning_rate": 0.0}, "block_learning_rate"),
        ({"block_rows": 1}, "block_rows"),
    ],
)
def test_a_wrong_option_is_named(changes: dict[str, object], key: str) -> None:
    with pytest.raises(RequestError, match=key):
        method(**changes)
