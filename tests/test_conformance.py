"""Every architecture under every combination of methods: it works and something is cheaper, or it is refused truly."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

import matrix
import pipelines
from composing import QUICK_PTQ

SHARES = re.compile(r"\d\.\d\d( · \d\.\d\d){2}")
QUICK = [("sd3", methods) for methods in ("", "ptq", "frdiff", "ptq,frdiff")]
"""Architectures of the default suite; the others are slow together."""


def quick(methods: str) -> tuple[str, ...]:
    """Costs do not depend on how well intervals are searched."""
    return QUICK_PTQ if "ptq" in methods else ()


def _cells() -> list[Any]:
    return [
        pytest.param(name, methods, marks=() if (name, methods) in QUICK else pytest.mark.slow, id=f"{name}-{methods}")
        for name in pipelines.KINDS
        for methods in matrix.COMBINATIONS
    ]


@pytest.mark.parametrize(("name", "methods"), _cells())
def test_a_cell_works_and_is_cheaper_or_is_refused_in_one_line(
    name: str, methods: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    cell = matrix.cell(name, methods, tmp_path_factory.getbasetemp(), *quick(methods))
    if cell.refused is not None:
        assert "\n" not in cell.refused
        assert methods != "", "a baseline runs on every architecture"
        return
    assert torch.isfinite(cell.images).all()
    assert torch.equal(cell.images, cell.again), "same seeds, same images"
    if methods == "":
        assert torch.equal(cell.images, cell.plain)
    else:
        assert not torch.equal(cell.images, cell.plain)
        assert cell.macs < cell.plain_macs or cell.bops < cell.plain_bops or cell.bytes < cell.plain_bytes


@pytest.mark.slow
def test_the_table_in_the_documentation_is_of_these_architectures_and_their_refusals(tmp_path: Path) -> None:
    cells = matrix.read(matrix.TABLE.read_text(encoding="utf-8"))
    assert list(cells) == [(name, methods) for name in pipelines.KINDS for methods in matrix.COMBINATIONS]
    for (name, methods), told in cells.items():
        if methods in ("deepcache", "qncd,ptq"):  # the others are refused nowhere
            reason = matrix.refusal(name, methods, tmp_path)
            assert told == matrix.reason_of(reason) if reason else SHARES.fullmatch(told), (name, methods)
        else:
            assert SHARES.fullmatch(told), (name, methods)


@pytest.mark.parametrize("methods", ["frdiff", "qncd,ptq"])
def test_the_table_in_the_documentation_holds_what_is_measured(methods: str, tmp_path: Path) -> None:
    cells = matrix.read(matrix.TABLE.read_text(encoding="utf-8"))
    assert cells["ddpm", methods] == matrix.described(matrix.cell("ddpm", methods, tmp_path, *quick(methods)))
