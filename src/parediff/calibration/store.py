"""Calls kept in a file and mapped back one at a time: memory does not grow with how many there are."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from parediff.models.diffusion.door import Call


@dataclass(frozen=True)
class Piece:
    """Where a tensor lies in the file."""

    offset: int
    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device

    @property
    def size(self) -> int:
        """Bytes."""
        return prod(self.shape) * self.dtype.itemsize


class CallStore:
    """An append-only list of calls in a temporary file of its own, below `folder`, which goes when the store goes.

    A tensor that comes again with the next call (a prompt's embedding) is written once.
    """

    def __init__(self, folder: Path | None = None) -> None:
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        self._folder = tempfile.TemporaryDirectory(prefix="parediff-calls-", dir=folder)
        self._path = Path(self._folder.name) / "calls.bin"
        self._path.touch()
        self._bytes = 0
        self._entries: list[tuple[Piece, Piece, Any, int]] = []
        self._last: dict[int, tuple[Tensor, Piece]] = {}

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def size_bytes(self) -> int:
        """Of the file."""
        return self._bytes

    def append(self, call: Call) -> None:
        """Write one call."""
        written: dict[int, tuple[Tensor, Piece]] = {}
        with self._path.open("ab") as file:
            write = lambda tensor: self._write(tensor, file, written)  # noqa: E731 - the file is open only here
            entry = (write(call.x), write(call.t), _mapped(call.cond, Tensor, write), call.step)
        self._last = written
        self._entries.append(entry)

    def __iter__(self) -> Iterator[Call]:
        for x, t, cond, step in self._entries:
            yield Call(self._read(x), self._read(t), _mapped(cond, Piece, self._read), step)

    def _write(self, tensor: Tensor, file: Any, written: dict[int, tuple[Tensor, Piece]]) -> Piece:
        known = self._last.get(id(tensor)) or written.get(id(tensor))
        if known is None:
            plain = tensor.detach().cpu().contiguous()
            known = tensor, Piece(self._bytes, tuple(tensor.shape), tensor.dtype, tensor.device)
            file.write(plain.reshape(-1).view(torch.uint8).numpy().tobytes())
            self._bytes += known[1].size
        written[id(tensor)] = known
        return known[1]

    def _read(self, piece: Piece) -> Tensor:
        raw = np.fromfile(self._path, dtype=np.uint8, count=piece.size, offset=piece.offset)
        return torch.from_numpy(raw).view(piece.dtype).reshape(piece.shape).to(piece.device)


def _mapped(value: Any, kind: type, change: Any) -> Any:
    """The same structure with everything of `kind` changed."""
    if isinstance(value, kind):
        return change(value)
    if isinstance(value, Mapping):
        return {key: _mapped(entry, kind, change) for key, entry in value.items()}
    return [_mapped(entry, kind, change) for entry in value] if isinstance(value, list) else value
