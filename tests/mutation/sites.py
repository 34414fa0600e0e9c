"""Mutants of a source file: one small change each, with the stretch of code in which it lies."""

from __future__ import annotations

import ast
import collections
import copy
import difflib
from collections.abc import Iterator
from typing import NamedTuple

from mutation.stretches import FUNCTION, MODULE, blocks, is_text, stretches

COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    **{ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt},
    **{
        ast.Eq: ast.NotEq,
        ast.NotEq: ast.Eq,
        ast.Is: ast.IsNot,
        ast.IsNot: ast.Is,
        ast.In: ast.NotIn,
        ast.NotIn: ast.In,
    },
}
ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    **{ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult},
    **{ast.FloorDiv: ast.Mult, ast.Mod: ast.FloorDiv, ast.Pow: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd},
}
SYMMETRIC = {
    "max",
    "min",
    "maximum",
    "minimum",
    "equal",
    "allclose",
    "isclose",
    "hypot",
    "isinstance",
    "issubclass",
    "cast",
}
"""Calls whose first two arguments are not swapped: nothing would change, or no code would do it."""
QUIET = {"logger", "log", "warnings.warn", "warnings.simplefilter", "warnings.filterwarnings"}
"""Calls that only tell; what makes an error holds its text."""
UNSEEN = {"__repr__", "__str__", "__rich__"}
ASSURANCES = {"strict", "stacklevel", "help", "doc"}
"""Keyword arguments whose value no result depends on."""


class Mutant(NamedTuple):
    """A change of one place: `text` stands for lines `first` to `last` (from 1) of the file."""

    name: str
    stretch: str
    first: int
    last: int
    text: str

    def applied(self, source: str) -> str:
        """The whole file with the change."""
        lines = source.splitlines(keepends=True)
        return "".join([*lines[: self.first - 1], self.text, *lines[self.last :]])

    def diff(self, source: str) -> str:
        """The change, as lines with - and +."""
        lines = source.splitlines(keepends=True)[self.first - 1 : self.last]
        return "".join(list(difflib.unified_diff(lines, self.text.splitlines(keepends=True), n=0))[3:])


class _Change(NamedTuple):
    kind: str
    node: ast.expr | ast.stmt
    new: str


def mutants(source: str) -> list[Mutant]:
    """All mutants of a file, in the order of its text; `Class.function#0:kind:1` names the second of its kind there."""
    tree = ast.parse(source)
    lines = source.encode().splitlines(keepends=True)
    seen: collections.Counter[str] = collections.Counter()
    made = []
    for stretch, change in _changes(tree):
        name = f"{stretch}:{change.kind}"
        made.append(_mutant(lines, f"{name}:{seen[name]}", stretch, change))
        seen[name] += 1
    return made


def _mutant(lines: list[bytes], name: str, stretch: str, change: _Change) -> Mutant:
    node = change.node
    assert node.end_lineno is not None
    assert node.end_col_offset is not None
    before = lines[node.lineno - 1][: node.col_offset]
    after = lines[node.end_lineno - 1][node.end_col_offset :]
    return Mutant(name, stretch, node.lineno, node.end_lineno, (before + change.new.encode() + after).decode())


def _changes(tree: ast.Module) -> Iterator[tuple[str, _Change]]:
    """(stretch, change) of every statement that computes."""
    of = {id(entry): found.name for found in stretches(tree) for entry in found.block[found.start : found.stop]}
    for statement, stretch in _statements(tree.body, MODULE, of):
        for change in (*_removed(statement), *_within(statement)):
            yield stretch, change


def _statements(body: list[ast.stmt], around: str, of: dict[int, str]) -> Iterator[tuple[ast.stmt, str]]:
    """Statements with their stretch; a function's defaults belong to its own first one."""
    for entry in body:
        own = of.get(id(entry), around)
        if isinstance(entry, FUNCTION):
            if entry.name not in UNSEEN:
                yield entry, of[id(entry.body[0])]
                yield from _statements(entry.body, own, of)
        elif isinstance(entry, ast.ClassDef):
            yield from _statements(entry.body, own, of)
        elif not (is_text(entry) or _only_types(entry) or _quiet(entry)):
            yield entry, own
            for block in blocks(entry):
                yield from _statements(block, own, of)


def _only_types(statement: ast.stmt) -> bool:
    test = getattr(statement, "test", None)
    guarded = isinstance(statement, ast.If) and isinstance(test, ast.Name) and test.id in ("TYPE_CHECKING", "__debug__")
    return guarded or isinstance(statement, ast.Import | ast.ImportFrom | ast.Assert)


def _quiet(node: ast.AST) -> bool:
    call = node.value if isinstance(node, ast.Expr) else node
    if not isinstance(call, ast.Call):
        return False
    called = ast.unparse(call.func)
    return called.endswith("Error") or called in QUIET or called.partition(".")[0] in QUIET


def _removed(statement: ast.stmt) -> Iterator[_Change]:
    """A statement gone, or another way out of a loop or a function."""
    stored = isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Attribute | ast.Subscript)
    called = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call)
    if stored or called or isinstance(statement, ast.AugAssign | ast.Raise | ast.Delete):
        yield _Change("removed", statement, "pass")
    elif isinstance(statement, ast.Break):
        yield _Change("break", statement, "continue")
    elif isinstance(statement, ast.Continue):
        yield _Change("continue", statement, "break")
    elif isinstance(statement, ast.Return) and statement.value is not None and not _is_none(statement.value):
        yield _Change("return", statement, "return None")


def _is_none(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def _within(statement: ast.stmt) -> Iterator[_Change]:
    """Changes of the expressions that stand directly in a statement: not in its blocks, types or error texts."""
    if isinstance(statement, FUNCTION):
        parts: list[ast.AST | None] = [*statement.args.defaults, *statement.args.kw_defaults]
    elif isinstance(statement, ast.AnnAssign):
        parts = [statement.value]
    elif isinstance(statement, ast.Raise | ast.Match | ast.Try):
        parts = []
    else:
        parts = [child for child in ast.iter_child_nodes(statement) if isinstance(child, ast.expr | ast.withitem)]
    if isinstance(statement, ast.If | ast.While):
        yield from _negated(statement.test)
    for part in parts:
        if part is not None:
            yield from _expression(part)


def _negated(test: ast.expr) -> Iterator[_Change]:
    """The other branch; where the test is one comparison of equality, or a `not`, that change does the same."""
    same = isinstance(test, ast.Compare) and not isinstance(test.ops[0], ast.Lt | ast.LtE | ast.Gt | ast.GtE)
    if not same and not (isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not)):
        yield _Change("negated", test, f"(not ({ast.unparse(test)}))")


def _expression(node: ast.AST) -> Iterator[_Change]:
    """The changes of an expression and of all below it; texts in braces have no place of their own and stay."""
    if isinstance(node, ast.JoinedStr | ast.arguments) or _quiet(node):
        return
    if isinstance(node, ast.expr):
        yield from _changed(node)
    if isinstance(node, ast.IfExp):
        yield from _negated(node.test)
    if isinstance(node, ast.comprehension):
        for test in node.ifs:
            yield from _negated(test)
    for child in ast.iter_child_nodes(node):
        if not (isinstance(child, ast.keyword) and child.arg in ASSURANCES):
            yield from _expression(child)


def _changed(node: ast.expr) -> Iterator[_Change]:
    if isinstance(node, ast.Compare):
        new = copy.deepcopy(node)
        new.ops[0] = COMPARISONS[type(node.ops[0])]()
        yield _Change("comparison", node, f"({ast.unparse(new)})")
        yield from _text(node.left, *node.comparators)
    elif isinstance(node, ast.BinOp) and type(node.op) in ARITHMETIC and not (_joins(node.left) or _joins(node.right)):
        new_op = ARITHMETIC[type(node.op)]()
        yield _Change("arithmetic", node, f"({ast.unparse(ast.BinOp(node.left, new_op, node.right))})")
    elif isinstance(node, ast.BoolOp):
        other = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        yield _Change("boolean", node, f"({ast.unparse(ast.BoolOp(other, node.values))})")
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not | ast.USub):
        yield _Change("sign", node, f"({ast.unparse(node.operand)})")
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool | int | float):
        yield _Change("constant", node, repr(not node.value if isinstance(node.value, bool) else node.value + 1))
    elif isinstance(node, ast.Dict):
        yield from _text(*(key for key in node.keys if key is not None))
    elif isinstance(node, ast.Subscript):
        yield from _text(node.slice)
    elif isinstance(node, ast.Call):
        yield from _swapped(node)


def _joins(node: ast.expr) -> bool:
    """Text, lists and types: an operator on them is no arithmetic."""
    return isinstance(node, ast.JoinedStr | ast.List | ast.Tuple | ast.ListComp) or (
        isinstance(node, ast.Constant) and not isinstance(node.value, int | float)
    )


def _text(*nodes: ast.expr) -> Iterator[_Change]:
    """Another key or another word compared with."""
    for node in nodes:
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield _Change("text", node, repr(f"{node.value}_"))


def _swapped(node: ast.Call) -> Iterator[_Change]:
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    plain = len(node.args) > 1 and not any(isinstance(arg, ast.Starred) for arg in node.args[:2])
    if plain and name not in SYMMETRIC and ast.dump(node.args[0]) != ast.dump(node.args[1]):
        new = copy.copy(node)
        new.args = [node.args[1], node.args[0], *node.args[2:]]
        yield _Change("swapped", node, ast.unparse(new))
