"""A digest of code: comments and layout do not count, anything that computes does, however deep."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from parediff import digest
from parediff.digest import source_digest


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package of its own: `measured.top` imports `measured.below`."""
    folder = tmp_path / "measured"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "top.py").write_text("from measured.below import half\n\ndef f(x):\n    return half(x) + 1\n")
    (folder / "below.py").write_text("def half(x):\n    return x / 2\n")
    (folder / "beside.py").write_text("VALUE = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    digest._path_of.cache_clear()
    yield folder
    digest._path_of.cache_clear()
    for name in [name for name in sys.modules if name.partition(".")[0] == "measured"]:
        del sys.modules[name]


def rewritten(path: Path, text: str) -> str:
    digest._parsed.cache_clear()
    path.write_text(text)
    return source_digest(["measured.top"])


def test_comments_docstrings_and_layout_do_not_count(package: Path) -> None:
    before = source_digest(["measured.top"])
    dressed = '"""Doc."""\ndef half(x):  # comment\n    """Says it."""\n    return (\n        x / 2\n    )\n'
    assert rewritten(package / "below.py", dressed) == before


def test_a_change_below_counts_and_one_beside_does_not(package: Path) -> None:
    before = source_digest(["measured.top"])
    assert rewritten(package / "beside.py", "VALUE = 2\n") == before
    assert rewritten(package / "below.py", "def half(x):\n    return x / 3\n") != before


def test_what_is_imported_for_types_alone_does_not_count(package: Path) -> None:
    typed = "from typing import TYPE_CHECKING\n\nif TYPE_CHECKING:\n    from measured.beside import VALUE\n"
    before = rewritten(package / "top.py", typed + "else:\n    from measured.below import half\n")
    assert rewritten(package / "beside.py", "VALUE = 3\n") == before
    assert rewritten(package / "below.py", "def half(x):\n    return x / 5\n") != before


def test_reports_and_commands_are_no_part_of_what_measures() -> None:
    measuring = digest._closure(["parediff.metrics.frechet", "parediff.sampling.images", "parediff.pipeline.evaluate"])
    assert not [
        name for name in measuring if name.startswith(("parediff.report", "parediff.commands", "parediff.config"))
    ]


def test_every_metric_of_the_package_has_a_digest_of_its_own() -> None:
    names = ["parediff.metrics.psnr", "parediff.metrics.ssim", "parediff.metrics.frechet"]
    assert len({source_digest([name]) for name in names}) == len(names)


def test_a_file_that_is_edited_while_a_process_runs_is_not_what_the_process_has_loaded(package: Path) -> None:
    before = source_digest(["measured.top"])
    (package / "below.py").write_text("def half(x):\n    return x / 3\n")
    assert source_digest(["measured.top"]) == before
