"""Where a number comes from: fingerprints of what was asked, the code and the machine that answered."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import math
import os
import platform
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from parediff import __version__

# Top-level keys that say where and how a run is shown and stored, never what it computes.
IRRELEVANT = frozenset(
    [
        "study",
        "experiment",
        "points",
        "front",
        "runs_dir",
        "allow",
        "tracker",
        "launcher",
        "resume",
        "save",
        "verbose",
        "verbosity",
        "quiet",
        "progress",
        "hydra",
    ]
)
KEPT_AT = {"model": frozenset(["text_cache"])}
"""Settings of a part that say where something is kept."""
PACKAGES = ("torch", "torchvision", "diffusers", "pytorch-lightning", "numpy", "scipy", "torchmetrics", "clean-fid")


def plain(value: Any) -> Any:
    """The value as JSON can hold it: tuples become lists, paths text, and NaN and infinities null."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in (sorted(value) if isinstance(value, set | frozenset) else value)]
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return plain(value.item()) if hasattr(value, "item") else str(value)


def fingerprint(details: Any) -> str:
    """16 hex digits of SHA-256 over the details: equal details, equal text, on any machine and in any key order."""
    text = json.dumps(plain(details), sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def file_fingerprint(path: Path) -> str:
    """16 hex digits of SHA-256 over a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def run_id(config: Mapping[str, Any], seeds: Any) -> str:
    """The name of a run's folder: what was asked, without what cannot change the result."""
    asked = without(config, IRRELEVANT)
    parts = {part: without(asked[part], keys) for part, keys in KEPT_AT.items() if isinstance(asked.get(part), Mapping)}
    return fingerprint({"config": {**asked, **parts}, "seeds": seeds})[:12]


def without(config: Mapping[str, Any], keys: Iterable[str]) -> dict[str, Any]:
    """The config without some of its top-level keys."""
    left_out = set(keys)
    return {key: value for key, value in config.items() if key not in left_out}


def code() -> dict[str, Any]:
    """Version, commit and whether the working tree differs from it; commit and dirty are None outside a checkout."""
    here = Path(__file__).resolve().parent
    tracked = _git(here, "ls-files", "--error-unmatch", Path(__file__).name)
    if tracked is None:  # installed from a wheel, perhaps below somebody else's repository
        return {"version": __version__, "commit": None, "dirty": None}
    changes = _git(here, "status", "--porcelain", "--untracked-files=no")
    dirty = None if changes is None else bool(changes)
    return {"version": __version__, "commit": _git(here, "rev-parse", "HEAD"), "dirty": dirty}


def _git(folder: Path, *arguments: str) -> str | None:
    """What git prints, or None where there is no git, no repository or no answer."""
    command = ["git", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def versions(packages: Iterable[str] = PACKAGES) -> dict[str, str]:
    """Installed versions, of those packages that are installed."""
    found = {}
    for name in packages:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def environment() -> dict[str, Any]:
    """The machine and its software; names neither the host nor its user."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": platform.machine(),
        "cores": os.cpu_count(),
        "packages": versions(),
        **_torch_state(),
    }


def _torch_state() -> dict[str, Any]:
    """Threads and accelerator, where torch is already loaded: asking must not load it."""
    torch = sys.modules.get("torch")
    if torch is None:
        return {}
    accelerator = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {"threads": torch.get_num_threads(), "accelerator": accelerator}
