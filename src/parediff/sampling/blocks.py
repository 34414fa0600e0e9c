"""Finished batches of images on disk, so that a run that was cut off goes on where it was."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from parediff.atomic import tidy, write_atomically
from parediff.results.interruption import safe_point


class Blocks:
    """Outputs of whole batches, one file each, below a folder that only one process works in.

    The first batch is always drawn again: what it costs is measured in this process, and where it does not come out
    bit for bit as it is kept, the others are not this machine's work and are dropped.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        tidy(folder)

    def kept(self, rows: range) -> Tensor | None:
        """The outputs for these rows, where they are there."""
        path = self._path(rows)
        return torch.from_numpy(np.load(path)) if rows.start and path.is_file() else None

    def keep(self, rows: range, outputs: Tensor) -> None:
        """Put a drawn batch there; raises WriteError where that fails."""
        path = self._path(rows)
        if rows.start == 0 and self.folder.exists() and not self._is_same(path, outputs):
            self.remove()
        content = io.BytesIO()
        np.save(content, outputs.numpy())
        write_atomically(path, content.getvalue())
        safe_point()

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def _is_same(self, path: Path, outputs: Tensor) -> bool:
        return path.is_file() and np.array_equal(np.load(path), outputs.numpy())

    def _path(self, rows: range) -> Path:
        return self.folder / f"{rows.start}-{rows.stop}.npy"
