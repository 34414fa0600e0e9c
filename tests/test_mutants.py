"""The parts of the mutation testing; the whole of it is slow-marked, and its closing table is the score."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from mutation import reach
from mutation.noticing import Reached, at_lines
from mutation.sites import mutants
from mutation.stretches import stretches
from mutation.tree import Tree

SOURCE = '''"""Text."""
from typing import Final

LIMIT: Final = 3


class Box:
    def fits(self, size: int, *, spare: int = 1) -> bool:
        """Whether it fits."""
        if size < 0:
            raise ValueError(f"size={size}: at least 0")
        self.last = size
        for each in range(size):
            if each > LIMIT and spare:
                return False
        return size + spare <= LIMIT
'''


def changed() -> dict[str, tuple[str, str]]:
    """Name of a mutant -> (stretch, its lines without the margin)."""
    return {each.name: (each.stretch, each.text.strip()) for each in mutants(SOURCE)}


def test_mutants_change_one_thing_each() -> None:
    assert changed() == {
        ":constant:0": ("", "LIMIT: Final = 4"),
        "Box.fits#0:constant:0": ("Box.fits#0", "def fits(self, size: int, *, spare: int = 2) -> bool:"),
        "Box.fits#0:negated:0": ("Box.fits#0", "if (not (size < 0)):"),
        "Box.fits#0:comparison:0": ("Box.fits#0", "if (size <= 0):"),
        "Box.fits#0:constant:1": ("Box.fits#0", "if size < 1:"),
        "Box.fits#1:removed:0": ("Box.fits#1", "pass"),
        "Box.fits#2:removed:0": ("Box.fits#2", "pass"),
        "Box.fits#3:negated:0": ("Box.fits#3", "if (not (each > LIMIT and spare)):"),
        "Box.fits#3:boolean:0": ("Box.fits#3", "if (each > LIMIT or spare):"),
        "Box.fits#3:comparison:0": ("Box.fits#3", "if (each >= LIMIT) and spare:"),
        "Box.fits#4:return:0": ("Box.fits#4", "return None"),
        "Box.fits#4:constant:0": ("Box.fits#4", "return True"),
        "Box.fits#5:return:0": ("Box.fits#5", "return None"),
        "Box.fits#5:comparison:0": ("Box.fits#5", "return (size + spare < LIMIT)"),
        "Box.fits#5:arithmetic:0": ("Box.fits#5", "return (size - spare) <= LIMIT"),
    }


def test_a_mutant_changes_its_lines_only() -> None:
    for each in mutants(SOURCE):
        before, after = SOURCE.splitlines(), each.applied(SOURCE).splitlines()
        different = {number + 1 for number, (old, new) in enumerate(zip(before, after, strict=True)) if old != new}
        assert different <= set(range(each.first, each.last + 1)), each
        assert len(different) == 1, each


def test_keys_and_arguments_are_changed_and_words_that_only_tell_are_not() -> None:
    source = """def told(x):
    logger.info('x', 1)
    return pair(x, {'a': x['b'], **rest}, strict=True) if x == 'c' else f'{x + 1}'
"""
    texts = [each.text.strip() for each in mutants(source)]
    assert sorted(texts) == sorted(
        [
            "return None",
            "return pair(x, {'a': x['b'], **rest}, strict=True) if (x != 'c') else f'{x + 1}'",
            "return pair(x, {'a': x['b'], **rest}, strict=True) if x == 'c_' else f'{x + 1}'",
            "return pair(x, {'a_': x['b'], **rest}, strict=True) if x == 'c' else f'{x + 1}'",
            "return pair(x, {'a': x['b_'], **rest}, strict=True) if x == 'c' else f'{x + 1}'",
            "return pair({'a': x['b'], **rest}, x, strict=True) if x == 'c' else f'{x + 1}'",
        ]
    )


def test_marks_tell_which_stretches_ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    marks = reach.Marks(tmp_path / "elsewhere")
    monkeypatch.setattr("builtins.__reached__", marks, raising=False)
    space: dict[str, type] = {}
    exec(compile(reach.marked(SOURCE, "box.py"), "box.py", "exec"), space)
    assert marks.current == set()
    assert space["Box"]().fits(1)
    assert marks.current == {f"box.py::Box.fits#{number}" for number in (0, 2, 3, 5)}
    assert space["Box"].__dict__["fits"].__doc__ == "Whether it fits."


def test_marks_of_other_processes_are_kept_under_their_test(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    marks = reach.Marks(tmp_path / "elsewhere")
    marks.process = 0  # of a parent
    monkeypatch.setenv("PYTEST_CURRENT_TEST", "tests/test_x.py::test_y[a b] (call)")
    marks("box.py::f#0")
    marks("box.py::f#0")
    assert list(marks.of_others()) == [("tests/test_x.py::test_y[a b]", "box.py::f#0")]
    assert not marks.current


def test_lines_are_found_in_their_stretch() -> None:
    assert at_lines(SOURCE, 10, 12) == {"Box.fits#0", "Box.fits#1", "Box.fits#2"}
    assert at_lines(SOURCE, 4, 4) == {""}
    assert len({stretch.name for stretch in stretches(ast.parse(SOURCE))}) == 6


def test_cheap_tests_come_first_and_a_shared_fixture_is_paid_once(tmp_path: Path) -> None:
    own = {"fixtures": [], "reached": ["box.py::Box.fits#0"]}
    tests = {
        "t.py::dear": own | {"cpu_s": 9.0},
        "t.py::one": own | {"cpu_s": 0.1, "fixtures": ["model:0"]},
        "t.py::two": own | {"cpu_s": 0.1, "fixtures": ["model:0"], "reached": []},
        "t.py::cheap": own | {"cpu_s": 0.2},
        "t.py::another": own | {"cpu_s": 0.1, "reached": ["box.py::"]},
    }
    fixtures = {"model:0": {"cpu_s": 2.0, "reached": ["box.py::Box.fits#0"]}}
    reached = Reached.__new__(Reached)
    reached.hold({"t.py": {"tests": tests, "fixtures": fixtures, "collected": []}})
    found = reached.reaching("box.py", ["Box.fits#0"])
    timed = [(test.name, round(total, 3)) for test, total in reached.within(found, 100)]
    assert timed == [("t.py::cheap", 0.2), ("t.py::one", 2.3), ("t.py::two", 2.4), ("t.py::dear", 11.4)]
    assert [test.name for test, _ in reached.within(found, 2)] == ["t.py::cheap", "t.py::one"]
    assert len(reached.reaching("box.py", [""])) == 5


def test_the_copy_follows_the_checkout_and_gets_its_text_back(tmp_path: Path) -> None:
    package = tmp_path / "root" / "src" / "parediff"
    package.mkdir(parents=True)
    (package / "a.py").write_text("A = 1\n")
    (package / "gone.py").write_text("")
    for name in ("conf", "experiments", "tests", "notebooks", "docs", "examples"):
        (tmp_path / "root" / name).mkdir()
    copy = tmp_path / "scratch" / "tree" / "src" / "parediff"
    with Tree(tmp_path / "scratch", tmp_path / "root") as tree:
        with tree.changed("a.py", "A = 2\n"):
            assert (copy / "a.py").read_text() == "A = 2\n"
        assert (copy / "a.py").read_text() == (package / "a.py").read_text() == "A = 1\n"
    (package / "gone.py").unlink()
    with Tree(tmp_path / "scratch", tmp_path / "root"):
        assert not (copy / "gone.py").exists()


@pytest.mark.slow
def test_the_tests_notice_95_of_100_mutants() -> None:
    script = Path(__file__).with_name("mutants.py")
    done = subprocess.run([sys.executable, script, "count=240"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-2000:]
