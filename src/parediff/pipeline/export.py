"""A compressed network as it would be deployed, in one file: what the size axis counts, bit-packed."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from parediff.atomic import write_atomically
from parediff.cost.size import Stored, exported
from parediff.errors import RequestError
from parediff.pipeline.saved import SavedRun

KEY = "parediff"
"""Of the file's metadata: JSON of every tensor's bits, shape, dtype and smallest code."""


def export(run: Path, output: Path) -> dict[str, Stored]:
    """Write the compressed denoiser of a run with `save=true` to `output`; what was written, by name.

    Raises RequestError where `run` holds no kept model or `output` does not end in .safetensors, WriteError where the
    file cannot be written.
    """
    if output.suffix != ".safetensors":
        raise RequestError("output", output, "a file that ends in .safetensors is accepted")
    state = exported(SavedRun("exported", str(run)).load("cpu").denoiser)
    write_atomically(output, to_bytes(state))
    return state


def to_bytes(state: Mapping[str, Stored]) -> bytes:
    """A safetensors file. Whole numbers below their dtype's width are packed at their bits, least significant first."""
    tensors, told = {}, {}
    for name, stored in state.items():
        tensor = stored.tensor.detach().cpu().contiguous()
        entry: dict[str, Any] = {"bits": stored.bits, "weight": stored.weight}
        if _packs(stored):
            lowest = int(tensor.min())
            entry |= {"shape": list(tensor.shape), "dtype": str(tensor.dtype), "lowest": lowest}
            tensor = packed(tensor.long() - lowest, int(stored.bits))
        tensors[name], told[name] = tensor.clone(), entry
    return save(tensors, metadata={KEY: json.dumps(told)})


def read_exported(path: Path) -> dict[str, Stored]:
    """What `export` wrote, bit by bit. Raises RequestError for any other file."""
    try:
        with safe_open(path, "pt") as file:
            told = json.loads((file.metadata() or {})[KEY])
            return {name: _read(file.get_tensor(name), told[name]) for name in file.keys()}  # noqa: SIM118
    except (OSError, KeyError, ValueError, SafetensorError) as error:
        raise RequestError("path", path, "a file that `parediff export` wrote is accepted") from error


def _read(tensor: Tensor, entry: Mapping[str, Any]) -> Stored:
    if "lowest" in entry:
        codes = unpacked(tensor, int(entry["bits"]), math.prod(entry["shape"])) + entry["lowest"]
        tensor = codes.reshape(entry["shape"]).to(getattr(torch, entry["dtype"].removeprefix("torch.")))
    return Stored(tensor, entry["bits"], entry["weight"])


def _packs(stored: Stored) -> bool:
    tensor = stored.tensor
    narrow = stored.bits < 8 * tensor.element_size() and float(stored.bits).is_integer()
    return narrow and tensor.numel() > 0 and bool((tensor == tensor.round()).all())


def packed(codes: Tensor, bits: int) -> Tensor:
    """Codes in 0..2^bits - 1, int64 of any shape, as bytes [ceil(n * bits / 8)]."""
    if int(codes.max()) >= 2**bits:
        raise ValueError(f"code {int(codes.max())} does not fit into {bits} bits")
    places = (codes.flatten().numpy()[:, None] >> np.arange(bits)) & 1
    return torch.from_numpy(np.packbits(places.astype(np.uint8), bitorder="little"))


def unpacked(data: Tensor, bits: int, count: int) -> Tensor:
    """The codes again, int64 [count]."""
    places = np.unpackbits(data.numpy(), bitorder="little")[: count * bits].reshape(count, bits)
    return torch.from_numpy((places.astype(np.int64) << np.arange(bits)).sum(axis=1))
