"""Single mistakes that can be put into a Python function: small edits of its text, found in its syntax tree.

The text is edited, not the tree, so that layout stays as it is and nothing depends on the version of Python that prints
trees. Whether an edit makes a function wrong is not known here: that is found by running it.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

_COMPARISONS = {"<": ("<=", ">"), "<=": ("<",), ">": (">=", "<"), ">=": (">",), "==": ("!=",), "!=": ("==",)}
_MEMBERSHIPS = {"in": ("not in",), "not in": ("in",), "is": ("is not",), "is not": ("is",)}
_OPERATORS = {"+": ("-",), "-": ("+",), "*": ("+",), "//": ("/", "%"), "/": ("*", "//"), "%": ("//",), "**": ("*",)}
_ORDERED = {"-", "//", "/", "%", "**"}
"""Operators whose sides cannot be swapped without a change."""
_SIMPLE = (ast.Name, ast.Constant, ast.Call, ast.Subscript, ast.Attribute)
"""Expressions that can stand on either side of an operator without brackets."""


@dataclass(frozen=True, slots=True)
class Edit:
    """One mistake: what it is, and the part of the text that it replaces."""

    kind: str
    start: int
    end: int
    text: str


def applied(source: str, edits: Sequence[Edit]) -> str:
    """The source with the edits made; they do not overlap."""
    for edit in sorted(edits, key=lambda edit: edit.start, reverse=True):
        source = source[: edit.start] + edit.text + source[edit.end :]
    return source


def apart(edits: Sequence[Edit]) -> bool:
    """Whether no two of the edits touch."""
    ordered = sorted(edits, key=lambda edit: (edit.start, edit.end))
    return all(a.end < b.start for a, b in pairwise(ordered))


def edits_of(source: str) -> tuple[Edit, ...]:
    """Every single mistake that is known for the source, in the order of the text, no two with the same result.

    Args:
        source: ASCII text of one function.
    """
    finder = _Finder(source)
    found: dict[str, Edit] = {}
    for edit in sorted(finder.edits(), key=lambda edit: (edit.start, edit.end, edit.text)):
        result = applied(source, [edit])
        if result != source:
            found.setdefault(result, edit)
    return tuple(found.values())


class _Finder:
    """Goes through one source."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._lines = [0]
        for line in source.splitlines(keepends=True):
            self._lines.append(self._lines[-1] + len(line))

    def edits(self) -> Iterator[Edit]:
        tree = ast.parse(self._source)
        for parent in ast.walk(tree):
            for child in ast.iter_child_nodes(parent):
                yield from self._at(child, parent)

    def _at(self, node: ast.AST, parent: ast.AST) -> Iterator[Edit]:
        if isinstance(node, ast.Compare) and len(node.ops) == 1:
            yield from self._replaced("wrong comparison", node.left, node.comparators[0], _COMPARISONS)
            yield from self._replaced("turned condition", node.left, node.comparators[0], _MEMBERSHIPS)
        elif isinstance(node, ast.BinOp):
            yield from self._replaced("wrong operator", node.left, node.right, _OPERATORS)
            yield from self._sides_swapped(node)
        elif isinstance(node, ast.AugAssign):
            yield from self._augmented(node)
        elif isinstance(node, ast.BoolOp):
            words = {"and": ("or",), "or": ("and",)}
            yield from self._replaced("and for or", node.values[0], node.values[1], words)
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            yield self._edit("turned condition", node, self._text(node.operand))
        elif isinstance(node, ast.Constant):
            yield from self._constant(node, parent)
        elif isinstance(node, ast.Call):
            yield from self._call(node)
        elif isinstance(node, ast.Slice):
            yield from self._slice(node)
        elif isinstance(node, ast.If):
            yield from self._dropped(node)

    def _replaced(
        self, kind: str, left: ast.AST, right: ast.AST, swaps: Mapping[str, tuple[str, ...]]
    ) -> Iterator[Edit]:
        """Another sign between two expressions; there may be brackets around it."""
        start, end = self._end(left), self._start(right)
        found = re.search(r"[-+*/%<>=!]+|\b(?:and|or|not in|in|is not|is)\b", self._source[start:end])
        for other in swaps.get(found[0], ()) if found else ():
            yield Edit(kind, start + found.start(), start + found.end(), other)  # type: ignore[union-attr]

    def _sides_swapped(self, node: ast.BinOp) -> Iterator[Edit]:
        between = self._source[self._end(node.left) : self._start(node.right)]
        simple = isinstance(node.left, _SIMPLE) and isinstance(node.right, _SIMPLE)
        if simple and between.strip() in _ORDERED:
            yield self._edit("swapped operands", node, self._text(node.right) + between + self._text(node.left))

    def _augmented(self, node: ast.AugAssign) -> Iterator[Edit]:
        start, end = self._end(node.target), self._start(node.value)
        found = re.search(r"[-+*/%]+(?==)", self._source[start:end])
        for other in _OPERATORS.get(found[0], ()) if found else ():
            yield Edit("wrong operator", start + found.start(), start + found.end(), other)  # type: ignore[union-attr]

    def _constant(self, node: ast.Constant, parent: ast.AST) -> Iterator[Edit]:
        value = node.value
        first = isinstance(parent, ast.Assign | ast.Tuple)
        if isinstance(value, bool):
            yield self._edit("wrong initial value" if first else "wrong truth value", node, str(not value))
        elif isinstance(value, int):
            near = isinstance(parent, ast.Slice | ast.Subscript | ast.BinOp | ast.Call)
            kind = "wrong initial value" if first else "off by one" if near else "changed constant"
            for other in (value + 1, value - 1):
                if other > 0 or (other == 0 and not isinstance(parent, ast.BinOp)):  # `x - 0` gives itself away
                    yield self._edit(kind, node, str(other))

    def _call(self, node: ast.Call) -> Iterator[Edit]:
        arguments = node.args
        if node.keywords or not arguments or any(isinstance(a, ast.Starred) for a in arguments):
            return
        if isinstance(node.func, ast.Name) and node.func.id == "range":
            first, last = arguments[0], arguments[min(1, len(arguments) - 1)]
            if len(arguments) == 1:
                yield self._edit("off by one", first, f"1, {self._text(first)}")
            for end in ("+", "-"):
                yield self._edit("off by one", last, f"{self._text(last)} {end} 1")
        if len(arguments) >= 2:
            a, b = arguments[:2]
            between = self._source[self._end(a) : self._start(b)]
            yield Edit("swapped arguments", self._start(a), self._end(b), self._text(b) + between + self._text(a))

    def _slice(self, node: ast.Slice) -> Iterator[Edit]:
        for bound in (node.lower, node.upper):
            if isinstance(bound, ast.Name):
                for sign in ("+", "-"):
                    yield self._edit("off by one", bound, f"{bound.id} {sign} 1")

    def _dropped(self, node: ast.If) -> Iterator[Edit]:
        """A branch without an `else`, taken out with all its lines."""
        if not node.orelse:
            yield Edit("dropped branch", self._lines[node.lineno - 1], self._lines[node.end_lineno or node.lineno], "")

    def _edit(self, kind: str, node: ast.AST, text: str) -> Edit:
        return Edit(kind, self._start(node), self._end(node), text)

    def _text(self, node: ast.AST) -> str:
        return self._source[self._start(node) : self._end(node)]

    def _start(self, node: ast.AST) -> int:
        assert isinstance(node, ast.expr)
        return self._lines[node.lineno - 1] + node.col_offset

    def _end(self, node: ast.AST) -> int:
        assert isinstance(node, ast.expr)
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return self._lines[node.end_lineno - 1] + node.end_col_offset
