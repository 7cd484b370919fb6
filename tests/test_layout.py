"""The shape of the code: which way imports point, what `import mien` costs, and words that belong to one file.

Nothing of mien is imported here; its source is read as text and as syntax trees.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SRC = Path(__file__).resolve().parent.parent / "src"
PACKAGE = SRC / "mien"

# A module may import those above it and no other; the files of a package may import one another.
ORDER = (
    "errors",
    "records",
    "live",
    "card",
    "progress",
    "store",
    "textfiles",
    "logs",
    "entries",
    "rubric",
    "phrasing",
    "questions",
    "published",
    "spec",
    "roles",
    "attacks",
    "contrasts",
    "endpoint",
    "authors",
    "contrast_author",
    "home",
    "gauges",
    "machine",
    "chat",
    "embedded",
    "models",
    "residual",
    "engines",
    "rollouts",
    "evidence",
    "persona_map",
    "probes",
    "coherence",
    "judge_api",
    "judge",
    "directions",
    "formats",
    "interventions",
    "holds",
    "verdict",
    "report",
    "scanning",
    "dose",
    "proof",
    "screening",
    "organisms",
    "training",
    "auditing",
    "holding",
    "jobs",
    "serve",
    "api",
    "cli",
)
EXEMPT = ("__init__", "__main__")
MAX_MODULE_LINES = 450
MAX_FUNCTION_LINES = 60

FILES = sorted(PACKAGE.rglob("*.py"))


def unit_of(path: Path) -> str:
    """`src/mien/engines/hf.py` -> `engines`; `src/mien/card.py` -> `card`."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def package_of(path: Path) -> str:
    """What a relative import in the file starts from: `src/mien/engines/hf.py` -> `mien.engines`."""
    return ".".join(path.relative_to(SRC).parts[:-1])


def imported_names(tree: ast.AST, package: str) -> Iterator[str]:
    """Every dotted name that a module imports anywhere: in functions, under TYPE_CHECKING, by a written-out string."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = package.split(".")
                base = ".".join([*parts[: len(parts) - node.level + 1], *([base] if base else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called, name = ast.unparse(node.func), node.args[0].value
            if called in {"import_module", "importlib.import_module", "__import__"} and isinstance(name, str):
                yield f"{package}{name}" if name.startswith(".") else name


def wrong_imports(tree: ast.AST, package: str, unit: str, order: tuple[str, ...]) -> list[str]:
    """One sentence for each import that does not point to an earlier module of `order`."""
    if unit not in order:
        return [
            f"src/mien/{unit} is not in ORDER of tests/test_layout.py: "
            "add it there, below everything that it imports and above everything that imports it."
        ]
    found = []
    for name in imported_names(tree, package):
        root, _, rest = name.partition(".")
        if root != "mien":
            continue
        target = rest.split(".")[0]
        if target.startswith("__"):  # __version__ and its like
            continue
        if target not in order:
            found.append(
                f"{unit} imports `{name}`: name the module that defines it, as in `from mien.errors import ...`."
            )
        elif order.index(target) > order.index(unit):
            found.append(
                f"{unit} imports `{name}`, which is above it in the flow; only earlier modules may be imported."
            )
    return found


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Every function and method, nested ones too."""
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def unsafe_loads(tree: ast.AST) -> Iterator[int]:
    """Line numbers of calls that can run code hidden in a file: torch.load as it is, pickle, NumPy with pickles on."""
    torch_load = {"torch.load"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            torch_load |= {f"{alias.asname}.load" for alias in node.names if alias.name == "torch" and alias.asname}
        elif isinstance(node, ast.ImportFrom) and node.module == "torch":
            torch_load |= {alias.asname or alias.name for alias in node.names if alias.name == "load"}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        given = {word.arg: ast.unparse(word.value) for word in node.keywords if word.arg}
        unsafe = called in {"pickle.load", "pickle.loads", "pickle.Unpickler", "joblib.load", "torch.jit.load"}
        unsafe |= called in torch_load and given.get("weights_only") != "True"
        unsafe |= called in {"np.load", "numpy.load"} and given.get("allow_pickle", "False") != "False"
        if unsafe:
            yield node.lineno


def trees() -> Iterator[tuple[str, ast.Module]]:
    """Every file of the package with its syntax tree."""
    return ((str(path.relative_to(SRC)), ast.parse(path.read_text(encoding="utf-8"))) for path in FILES)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SRC)))
def test_imports_point_one_way(path: Path) -> None:
    if unit_of(path) in EXEMPT:
        return
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert wrong_imports(tree, package_of(path), unit_of(path), ORDER) == []


def test_every_name_in_the_order_exists() -> None:
    gone = sorted(set(ORDER) - {unit_of(path) for path in FILES})
    assert not gone, f"take these out of ORDER, or write them: {gone}"


@pytest.mark.parametrize(
    ("source", "package", "unit"),
    [
        ("from mien.judge import Judge", "mien", "chat"),
        ("import mien.judge as j", "mien", "chat"),
        ("from mien import judge", "mien", "chat"),
        ("from . import judge", "mien", "chat"),
        ("from .judge import Judge", "mien", "chat"),
        ("from ..judge import Judge", "mien.engines", "engines"),
        ("from .. import judge", "mien.engines", "engines"),
        ("def f():\n    from mien.cli.app import main", "mien", "dose"),
        ("if TYPE_CHECKING:\n    from mien.judge import Judge", "mien", "chat"),
        ("import importlib\nimportlib.import_module('mien.judge')", "mien", "chat"),
        ("import mien", "mien", "cli"),
        ("from mien import load", "mien", "cli"),
        ("from mien.unheard_of import x", "mien", "cli"),
        ("import os", "mien", "unheard_of"),
    ],
)
def test_a_wrong_import_is_seen(source: str, package: str, unit: str) -> None:
    assert len(wrong_imports(ast.parse(source), package, unit, ORDER)) == 1


@pytest.mark.parametrize(
    ("source", "package", "unit"),
    [
        ("from mien.errors import MienError", "mien", "chat"),
        ("from .errors import MienError", "mien", "chat"),
        ("from ..chat import render\nfrom . import hf\nfrom .hf import HF", "mien.engines", "engines"),
        ("from mien import __version__, records", "mien.cli", "cli"),
        ("import os, torch.nn", "mien", "errors"),
    ],
)
def test_a_right_import_is_let_through(source: str, package: str, unit: str) -> None:
    assert wrong_imports(ast.parse(source), package, unit, ORDER) == []


def test_importing_mien_is_light() -> None:
    heavy = ("torch", "transformers", "numpy", "scipy", "sklearn")
    code = f"import sys, mien; print([name for name in {heavy!r} if name in sys.modules])"
    paths = os.pathsep.join(filter(None, [str(SRC), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": paths},
    )
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


@pytest.mark.parametrize(("word", "home"), [("apply_chat_template", "chat.py"), ("ModuleList", "models.py")])
def test_a_word_belongs_to_one_file(word: str, home: str) -> None:
    users = {str(path.relative_to(PACKAGE)) for path in FILES if word in path.read_text(encoding="utf-8")}
    assert users <= {home}, f"only {home} may know `{word}`"


def test_no_file_can_run_code_when_it_is_read() -> None:
    found = [f"{name}:{line}" for name, tree in trees() for line in unsafe_loads(tree)]
    assert not found, "pass weights_only=True, or use safetensors"


@pytest.mark.parametrize(
    "source",
    [
        "import torch\ntorch.load(p)",
        "import torch\ntorch.load(p, weights_only=False)",
        "import torch\ntorch.load(p, weights_only=flag)",
        "import torch as t\nt.load(p)",
        "from torch import load\nload(p)",
        "import pickle\npickle.loads(b)",
        "import numpy as np\nnp.load(p, allow_pickle=True)",
    ],
)
def test_an_unsafe_load_is_seen(source: str) -> None:
    assert len(list(unsafe_loads(ast.parse(source)))) == 1


def test_a_safe_load_is_let_through() -> None:
    source = "import torch, json\ntorch.load(p, map_location='cpu', weights_only=True)\njson.load(f)\nnp.load(p)"
    assert list(unsafe_loads(ast.parse(source))) == []


def test_no_module_is_too_long() -> None:
    lengths = {str(path.relative_to(SRC)): len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}
    assert {name: n for name, n in lengths.items() if n > MAX_MODULE_LINES} == {}


def test_no_function_is_too_long() -> None:
    lengths = {
        f"{name}:{node.lineno} {node.name}": (node.end_lineno or node.lineno) - node.lineno + 1
        for name, tree in trees()
        for node in functions(tree)
    }
    assert {name: n for name, n in lengths.items() if n > MAX_FUNCTION_LINES} == {}
