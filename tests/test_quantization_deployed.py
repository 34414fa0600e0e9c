"""What a quantised network weighs: an exported state that is read back and runs."""

from __future__ import annotations

import struct
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tiny
from composing import UNSEARCHED, method_of
from parediff.atomic import write_atomically
from parediff.calibration.base import LazyCalls
from parediff.calibration.uniform import Uniform
from parediff.cost import Stored, exported, size, size_bytes
from parediff.errors import RequestError
from parediff.models.diffusion.pipeline import DiffusionModel
from parediff.pipeline.compress import compress
from parediff.pipeline.export import packed, read_exported, to_bytes, unpacked
from parediff.quantization.layers import FoldableLayer, SplitQuantizedLayer, layers_of
from parediff.quantization.quantizer import Quantizer
from parediff.quantization.sources import PerStep, Static
from parediff.quantization.time_context import find_time_context

CALIBRATION = Uniform(10**9, 4, 4, 5)
SETTINGS = {
    "ptq": {"weight_bits": 4},
    "tdq": {"weight_bits": 4, "generator.iterations": 20},
    "per_step": {"weight_bits": 4},
    "q_diffusion": {"reconstruction.iterations": 2, "reconstruction.step_iterations": 2},
}


def method(name: str) -> Any:
    return method_of(name, {"values": 2048, **UNSEARCHED, **SETTINGS[name]}, "sampler.steps=5")


@cache
def quantised(name: str) -> DiffusionModel:
    """Made once; no test changes it."""
    model = tiny.unconditional_model()
    calls = LazyCalls(CALIBRATION, model.copy(), tiny.DDIM)
    compress(model, model.copy(), {name: method(name)}, lambda _: calls, lambda *_: None)
    return model


def read_back(name: str, state: dict[str, Stored]) -> DiffusionModel:
    """A fresh network with nothing but what was exported: codes times steps, tables, biases, norms."""
    model = tiny.unconditional_model()
    method(name).prepare(model)
    context = find_time_context(model.denoiser)
    if context is not None:
        context.remember(state["time_context.known"].tensor)
    for path, layer in layers_of(model.denoiser).items():
        for inner, quantizer in [(k, m) for k, m in layer.named_modules() if isinstance(m, Quantizer)]:
            load(quantizer, f"{path}.{inner}", state)
        if isinstance(layer, FoldableLayer):
            layer.folded = torch.cat(weights(layer, path, state), dim=1)
            layer.layer.bias = nn.Parameter(state[f"{path}.bias"].tensor)
    own = model.denoiser.state_dict()
    rest = {key: stored.tensor for key, stored in state.items() if key in own}
    model.denoiser.load_state_dict(rest, strict=False)
    for path, layer in layers_of(model.denoiser).items():  # loading unfolds
        if isinstance(layer, FoldableLayer):
            layer.folded = torch.cat(weights(layer, path, state), dim=1)
    return model


def load(quantizer: Quantizer, path: str, state: dict[str, Stored]) -> None:
    step = state[f"{path}.step"].tensor
    zero = state[f"{path}.zero_point"].tensor if quantizer.grid.has_zero_point else None
    if quantizer.source.timed:
        quantizer.source = PerStep(quantizer.source.context, None, zero_point=zero is not None)
        quantizer.source.fill_entries(slice(0, len(step)), step, zero)
    else:
        quantizer.source = Static(quantizer.channels, zero_point=zero is not None)
        quantizer.source.fill(step, zero)
    quantizer.calibrated.fill_(True)


def weights(layer: FoldableLayer, path: str, state: dict[str, Stored]) -> list[Tensor]:
    split = isinstance(layer, SplitQuantizedLayer)
    names = ["weight_quantizers.0", "weight_quantizers.1"] if split else ["weight_quantizer"]
    parts = []
    for place, name in enumerate(names):
        codes, step = state[f"{path}.codes.{place}"].tensor, state[f"{path}.{name}.step"].tensor
        parts.append(codes.float() * step.reshape(-1, *[1] * (codes.ndim - 1)))
    return parts


@pytest.mark.parametrize(
    "name", [name if name in ("ptq", "tdq") else pytest.param(name, marks=pytest.mark.slow) for name in SETTINGS]
)
def test_the_exported_state_is_all_that_is_needed_and_its_bytes_are_the_size(name: str, tmp_path: Path) -> None:
    model = quantised(name)
    state = exported(model.denoiser)
    file = write_atomically(tmp_path / "deployed.safetensors", to_bytes(state))
    from_disk = read_exported(file)
    assert {key: stored.bits for key, stored in from_disk.items()} == {key: one.bits for key, one in state.items()}
    assert all(torch.equal(from_disk[key].tensor, state[key].tensor) for key in state)
    (header,) = struct.unpack("<Q", file.read_bytes()[:8])
    assert file.stat().st_size - 8 - header == size_bytes(model.denoiser)
    again = read_back(name, from_disk)
    assert torch.allclose(again.generate((1, 2), None, tiny.DDIM), model.generate((1, 2), None, tiny.DDIM), atol=1e-5)
    assert size_bytes(model.denoiser) == sum(stored.bytes for stored in state.values())
    assert not any(word in key for key in state for word in ("hidden", "last", ".v", "learned", "calibrated"))
    packed = sum(layer.weight.numel() * layer.weight_bits for layer in _layers(model))
    assert size(model.denoiser).weights == pytest.approx(packed / 8, rel=0.01)


def _layers(model: DiffusionModel) -> list[FoldableLayer]:
    return [layer for layer in layers_of(model.denoiser).values() if isinstance(layer, FoldableLayer)]


def test_learned_rounding_and_generators_weigh_nothing_and_tables_four_bytes_a_step() -> None:
    plain, tables = quantised("ptq"), quantised("per_step")
    assert size(plain.denoiser).weights == size(tables.denoiser).weights == size(quantised("tdq").denoiser).weights
    timed = [m for m in tables.denoiser.modules() if isinstance(m, Quantizer) and m.source.timed]
    zeros = sum(4 * 8 // 8 if m.grid.bits == 8 else 4 * m.grid.bits / 8 for m in timed if m.grid.has_zero_point)
    extra = size(tables.denoiser).other - size(plain.denoiser).other
    assert extra == pytest.approx(4 * 4 * len(timed) + zeros + 4 * 5, abs=len(timed))


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 7, 8, 12])
def test_codes_are_packed_at_their_bits_and_come_back(bits: int) -> None:
    codes = torch.randint(2**bits, (37,), generator=torch.Generator().manual_seed(bits))
    data = packed(codes, bits)
    assert data.numel() == -(-37 * bits // 8)
    assert torch.equal(unpacked(data, bits, 37), codes)
    with pytest.raises(ValueError, match="does not fit"):
        packed(codes + 2**bits, bits)


def test_a_file_of_somebody_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "other.safetensors").write_bytes(b"nothing of ours")
    with pytest.raises(RequestError, match="parediff export"):
        read_exported(tmp_path / "other.safetensors")
