"""Wheels built and unpacked as an installer does, without a network."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest


def built(package: Path, target: Path, kind: str = "wheel") -> Path:
    """The wheel, or the `sdist`, of a source folder; without isolation, where hatchling is installed."""
    pytest.importorskip("hatchling")
    code = f"import hatchling.build as b; print(b.build_{kind}({str(target)!r}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=package, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return target / done.stdout.strip().splitlines()[-1]


def installed(package: Path, site: Path) -> Path:
    """A folder for the path that holds what an installer would put there."""
    site.mkdir(exist_ok=True)
    zipfile.ZipFile(built(package, site)).extractall(site)
    return site
