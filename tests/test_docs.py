"""The documentation is built without a warning, and what it shows is executed: snippets, files and commands."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import wheels
from parediff import cli

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
BLOCK = re.compile(
    r"(?:<!-- (?P<mark>slow|not run: [^>]+) -->\n)?"
    r"^```(?P<language>\w+)(?: title=\"(?P<title>[^\"]+)\")?\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
PARTS = ["Formula", "Source", "Measured here", "Where it does not help"]
COMPOSED = ("run", "train")


@dataclass(frozen=True)
class Block:
    """A fenced block: executed, but for `slow` ones in the quick suite and those that say why they are not."""

    language: str
    title: str | None
    text: str
    mark: str | None

    @property
    def is_executed(self) -> bool:
        return self.mark is None or self.mark == "slow"


def blocks(page: Path) -> list[Block]:
    found = BLOCK.finditer(page.read_text(encoding="utf-8"))
    return [Block(one["language"], one["title"], included(one["text"]), one["mark"]) for one in found]


def included(text: str) -> str:
    """With the files that it includes."""
    pattern = re.compile(r"^--8<-- \"([^\"]+)\"$", re.MULTILINE)
    return pattern.sub(lambda found: (ROOT / found[1]).read_text(encoding="utf-8").rstrip(), text)


def commands(text: str) -> list[list[str]]:
    """The words of every command of a shell block."""
    lines = text.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


@dataclass
class Reader:
    """Somebody who follows a page in an empty folder, from top to bottom."""

    folder: Path
    monkeypatch: pytest.MonkeyPatch
    slow: bool
    names: dict[str, Any] = field(default_factory=lambda: {"__name__": "__main__"})

    def follow(self, block: Block) -> None:
        if block.title is not None:
            path = self.folder / block.title
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text, encoding="utf-8")
        elif block.language == "python" and (self.slow or block.mark is None):
            exec(compile(block.text, "page", "exec"), self.names)
        elif block.language == "python":
            compile(block.text, "page", "exec")
        elif block.language == "bash":
            for words in commands(block.text):
                self.obey(words, really=block.is_executed and (self.slow or block.mark is None))

    def obey(self, words: list[str], *, really: bool) -> None:
        """A command as written; else only what it asks for is understood."""
        if words[0] == "parediff":
            self._parediff(words[1:], really=really)
        elif really and words[0] == "pip" and words[-2] == "-e":
            self._install(self.folder / words[-1])
        elif really and words[0] in ("pytest", "mkdir"):
            subprocess.run([sys.executable, "-m", *words] if words[0] == "pytest" else words, check=True)
        elif really:
            raise AssertionError(f"a command that nobody executes: {words}")

    def _parediff(self, words: list[str], *, really: bool) -> None:
        if really:
            assert cli.main(words) == 0, words
        elif words[0] in COMPOSED and not any(word.endswith((".yaml", ".yml")) for word in words):
            several = [word for word in words if not re.match(r"[^=]+=[^\[{]*,|.*\],\[", word)]
            assert cli.main([word for word in several if word != "-m"] + ["--cfg", "job"]) == 0, words
        else:
            cli._arguments(words)

    def _install(self, package: Path) -> None:
        site = wheels.installed(package, self.folder / "site")
        self.monkeypatch.syspath_prepend(str(site))
        path = os.pathsep.join([str(site), str(ROOT / "src")])
        self.monkeypatch.setenv("PYTHONPATH", path)


@pytest.fixture
def imports() -> Iterator[None]:
    """Modules that a page wrote are forgotten with its folder."""
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        file = getattr(sys.modules[name], "__file__", None) or ""
        if "pytest-" in file:
            del sys.modules[name]


def read(page: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, *, slow: bool) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    reader = Reader(folder, monkeypatch, slow)
    with contextlib.redirect_stdout(open(os.devnull, "w", encoding="utf-8")):
        for block in blocks(page):
            reader.follow(block)


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.usefixtures("imports")
@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)], ids=name_of)
def test_a_page_can_be_followed(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read(page, tmp_path, monkeypatch, slow=False)


@pytest.mark.slow
@pytest.mark.usefixtures("imports")
@pytest.mark.parametrize("page", [page for page in PAGES if any(b.mark == "slow" for b in blocks(page))], ids=name_of)
def test_a_page_can_be_followed_to_the_end(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read(page, tmp_path, monkeypatch, slow=True)


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("material")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    told = os.environ | {"PYTHONPATH": str(ROOT / "src"), "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=told, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    settings = (tmp_path / "methods" / "ptq.html").read_text(encoding="utf-8")
    assert "weight_bits" in settings
    assert "load_model" in (tmp_path / "reference" / "python.html").read_text(encoding="utf-8")
    assert "HalfLinear" in (tmp_path / "guides" / "own_package.html").read_text(encoding="utf-8")
    assert "install=bash" not in (tmp_path / "reference" / "record.html").read_text(encoding="utf-8")


def test_every_method_has_a_page_of_the_same_parts() -> None:
    options = {path.stem for path in (ROOT / "conf" / "method").glob("*.yaml")}
    pages = {path.stem: path.read_text(encoding="utf-8") for path in (DOCS / "methods").glob("*.md")}
    assert pages.keys() == options
    for name, text in pages.items():
        assert re.findall(r"^## (.+)$", text, re.MULTILINE) == PARTS, name
        assert text.startswith(f"# {name}: ")


def test_a_figure_on_the_page_of_a_method_stands_in_a_study() -> None:
    """Values with an error, as 0.71 ± 0.04, are quoted and not made up."""
    studies = " ".join(path.read_text(encoding="utf-8") for path in (ROOT / "experiments").glob("*/README.md"))
    plain = studies.replace("−", "-").replace("*", "")
    for path in (DOCS / "methods").glob("*.md"):
        quoted = re.findall(r"\d+\.\d+ ± \d+\.\d+", path.read_text(encoding="utf-8"))
        assert [figure for figure in quoted if figure not in plain] == [], path.name


def test_what_is_not_run_says_why_and_is_little() -> None:
    marks = [block.mark for page in PAGES for block in blocks(page) if not block.is_executed]
    assert len(marks) <= 13


def notebook_lines() -> list[str]:
    import nbformat

    book = nbformat.read(ROOT / "notebooks" / "quickstart.ipynb", as_version=4)
    return [cell.source for cell in book.cells if cell.cell_type == "code"]


def test_the_quickstart_notebook_is_the_ten_lines_of_its_page() -> None:
    text = next(block.text for block in blocks(DOCS / "notebook.md") if block.mark == "slow")
    lines = [re.sub(r"  # \d+$", "", line) for line in text.splitlines() if line]
    assert [cell.removesuffix("\nfigure") for cell in notebook_lines()] == lines
    assert len(lines) == 10


@pytest.mark.slow
def test_the_quickstart_notebook_runs_and_shows_a_front(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import nbformat
    from nbclient import NotebookClient

    monkeypatch.setenv("PYTHONPATH", str(ROOT / "src"))
    book = nbformat.read(ROOT / "notebooks" / "quickstart.ipynb", as_version=4)
    NotebookClient(book, timeout=900, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert "application/vnd.plotly.v1+json" in book.cells[-1].outputs[-1]["data"]
