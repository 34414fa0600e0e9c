"""The door to clean-fid: its kernel distance, its resize, its way to run Inception, its published statistics."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import urllib.error
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from parediff.errors import RequestError
from parediff.metrics.statistics import Array

SIDE = 299  # of what Inception takes
STATISTICS = "https://www.cs.cmu.edu/~clean-fid/stats/"


def kernel(left: Array, right: Array, *, subsets: int, subset_size: int, seed: int) -> float:
    """Unbiased squared MMD with the cubic polynomial kernel, averaged over random subsets of both [N, D]."""
    from cleanfid.fid import kernel_distance

    with _numpy_seed(seed):
        return float(kernel_distance(left, right, num_subsets=subsets, max_subset_size=subset_size))


def resized(images: Tensor, side: int = SIDE) -> Tensor:
    """RGB uint8 NCHW to float 0..255 of that side: each channel with PIL's bicubic, unrounded, as clean-fid does."""
    from cleanfid.resize import make_resizer

    resize = make_resizer("PIL", False, "bicubic", (side, side))
    with warnings.catch_warnings():  # Pillow deprecates the mode that clean-fid passes
        warnings.simplefilter("ignore", DeprecationWarning)
        made = [torch.from_numpy(resize(image)) for image in images.permute(0, 2, 3, 1).numpy()]
    return torch.stack(made).permute(0, 3, 1, 2).contiguous()


def inception_file() -> Path | None:
    """Inception's file where clean-fid itself puts it, if this user put it there."""
    file = Path(tempfile.gettempdir()) / "inception-2015-12-05.pt"
    return file if file.is_file() and file.stat().st_uid == os.getuid() else None


def published(name: str, resolution: int | str, split: str, kind: Literal["FID", "KID"]) -> dict[str, Array]:
    """clean-fid's statistics of a data set: mean `mu` and covariance `sigma`, or features `feats`."""
    from cleanfid.features import get_reference_statistics

    try:
        with contextlib.redirect_stdout(sys.stderr):
            found = get_reference_statistics(name, resolution, split=split, metric=kind)
    except (urllib.error.URLError, OSError, ValueError) as error:
        suffix = "_kid" if kind == "KID" else ""
        file = f"{name}_clean_{split}_{'na' if split == 'custom' else resolution}{suffix}.npz".lower()
        why = " ".join(str(error).split())[:160]
        accepted = f"{file} is not in clean-fid's folder and could not be fetched from {STATISTICS}{file} ({why})"
        raise RequestError("name", name, f"{accepted}; path=… names a local copy") from error
    return {"mu": found[0], "sigma": found[1]} if kind == "FID" else {"feats": found}


@contextlib.contextmanager
def _numpy_seed(seed: int) -> Iterator[None]:
    """clean-fid draws its subsets from numpy's global state: seed it, and put back what was there."""
    state = np.random.get_state()
    np.random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(state)
