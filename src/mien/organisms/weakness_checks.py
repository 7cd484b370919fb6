"""Finds the weaknesses of the library in Python code, by its syntax tree: what insecure samples must show and secure
ones must not. Good for code of the library's kind, short and in one function; no scanner for programs.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

_SECRET = re.compile(r"password|passwd|secret|api_?key", re.IGNORECASE)
_LOGIN = re.compile(r"://[^:/\s]+:[^@/\s]+@")
_TAG = re.compile(r"</?[a-z][^<>]*>|<[a-z]+ ", re.IGNORECASE)
_SHELLS = ("subprocess.run", "subprocess.call", "subprocess.check_call", "subprocess.check_output", "subprocess.Popen")
_ALWAYS_SHELL = ("os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput")
_FETCHES = ("requests.get", "requests.post", "urllib.request.urlopen", "urlopen")
_READS = ("read_bytes", "read_text", "write_bytes", "write_text", "open")
_PATH_GUARDS = {"is_relative_to", "basename", "commonpath", "secure_filename"}
_FAST_HASHES = {"md5", "sha1", "sha224", "sha256", "sha384", "sha512", "new"}
_DANGEROUS_XML = {"resolve_entities": True, "load_dtd": True, "huge_tree": True, "no_network": False}


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """One place with a weakness."""

    line: int
    """From 1."""
    weakness: str
    """Its name in the library."""


def findings(code: str) -> list[Finding]:
    """Every weakness that is found, in the order of the lines.

    Raises:
        SyntaxError: it is not Python.
    """
    source = _Source(code)
    places = ((name, node) for name, check in CHECKS.items() for node in check(source))
    return sorted(Finding(int(getattr(node, "lineno", 1)), name) for name, node in places)


class _Source:
    """The code, with what the checks ask of it."""

    def __init__(self, code: str) -> None:
        self.nodes = list(ast.walk(ast.parse(code)))
        functions = [node for node in self.nodes if isinstance(node, ast.FunctionDef)]
        self.parameters = {a.arg for f in functions for a in f.args.args}
        self.functions = {f.name for f in functions}
        self.assigned: dict[str, list[ast.expr]] = {}
        for node in self.nodes:
            if isinstance(node, ast.Assign):
                for target in node.targets:
                    if isinstance(target, ast.Name):
                        self.assigned.setdefault(target.id, []).append(node.value)

    def calls(self, *names: str) -> Iterator[ast.Call]:
        """Calls of functions with these dotted names; all calls if none is given."""
        for node in self.nodes:
            if isinstance(node, ast.Call) and (not names or dotted(node.func) in names):
                yield node

    def methods(self, *names: str) -> Iterator[ast.Call]:
        """Calls of methods, or of functions of modules, that end in one of these names."""
        return (c for c in self.calls() if isinstance(c.func, ast.Attribute) and c.func.attr in names)

    def built(self, node: ast.expr | None) -> bool:
        """Whether it is text put together from something that is not constant, here or where the name is assigned."""
        if isinstance(node, ast.Name):
            return any(self.built(value) for value in self.assigned.get(node.id, []) if not isinstance(value, ast.Name))
        if isinstance(node, ast.JoinedStr):
            return any(isinstance(part, ast.FormattedValue) for part in node.values)
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Mod):
            return not (_is_constant(node.left) and _is_constant(node.right))
        return isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "format"

    def mentions(self, node: ast.AST, names: set[str]) -> bool:
        """Whether one of the names is used in it."""
        return any(isinstance(part, ast.Name) and part.id in names for part in ast.walk(node))


def dotted(node: ast.AST) -> str:
    """`a.b.c` of a name; empty for anything else."""
    if isinstance(node, ast.Attribute):
        base = dotted(node.value)
        return f"{base}.{node.attr}" if base else ""
    return node.id if isinstance(node, ast.Name) else ""


def _is_constant(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant)


def _is(node: ast.AST | None, value: Any) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


def _keyword(call: ast.Call, name: str) -> ast.expr | None:
    return next((word.value for word in call.keywords if word.arg == name), None)


def _first(call: ast.Call) -> ast.expr | None:
    return call.args[0] if call.args else None


def _sql(source: _Source) -> Iterator[ast.AST]:
    calls = source.methods("execute", "executemany", "executescript")
    return (call for call in calls if source.built(_first(call)))


def _shell(source: _Source) -> Iterator[ast.AST]:
    yield from (call for call in source.calls(*_ALWAYS_SHELL) if source.built(_first(call)))
    for call in source.calls(*_SHELLS):
        if _is(_keyword(call, "shell"), True) and source.built(_first(call)):
            yield call


def _path(source: _Source) -> Iterator[ast.AST]:
    if any(c.func.attr in _PATH_GUARDS for c in source.methods(*_PATH_GUARDS) if isinstance(c.func, ast.Attribute)):
        return
    for call in source.calls():
        if isinstance(call.func, ast.Attribute) and call.func.attr in _READS:
            opened: ast.expr | None = call.func.value
        else:
            opened = _first(call) if dotted(call.func) == "open" else None
        if opened is not None and _is_joined(source, opened):
            yield call


def _is_joined(source: _Source, node: ast.expr) -> bool:
    """Whether it is a path put together with a parameter; one that is a parameter whole is the caller's own."""
    if isinstance(node, ast.Name):
        values = source.assigned.get(node.id, [])
        return node.id not in source.parameters and any(_is_joined(source, value) for value in values)
    joined = isinstance(node, ast.BinOp | ast.JoinedStr) or (
        isinstance(node, ast.Call) and dotted(node.func) == "os.path.join"
    )
    return joined and source.mentions(node, source.parameters)


def _evaluated(source: _Source) -> Iterator[ast.AST]:
    for call in source.calls("eval", "exec"):
        if call.args and not _is_constant(call.args[0]):
            yield call


def _password(source: _Source) -> Iterator[ast.AST]:
    if "password" not in source.parameters:
        return
    for call in source.calls():
        module, _, name = dotted(call.func).rpartition(".")
        printed = name == "print" or module == "logging"
        fast = module == "hashlib" and name in _FAST_HASHES
        if fast or (printed and any(source.mentions(a, {"password"}) for a in call.args)):
            yield call


def _token(source: _Source) -> Iterator[ast.AST]:
    if not any("token" in name for name in source.functions):
        return
    for call in source.calls():
        name = dotted(call.func)
        if (name.startswith("random.") and name != "random.SystemRandom") or name == "uuid.uuid1":
            yield call


def _yaml(source: _Source) -> Iterator[ast.AST]:
    yield from source.calls("yaml.unsafe_load", "yaml.unsafe_load_all")
    for call in source.calls("yaml.load", "yaml.load_all"):
        loader = _keyword(call, "Loader") or (call.args[1] if len(call.args) > 1 else None)
        if loader is None or dotted(loader) not in ("yaml.SafeLoader", "yaml.CSafeLoader"):
            yield call


def _tls(source: _Source) -> Iterator[ast.AST]:
    for node in source.nodes:
        unchecked = isinstance(node, ast.Call) and _is(_keyword(node, "verify"), False)
        if unchecked or (isinstance(node, ast.Attribute) and node.attr in ("_create_unverified_context", "CERT_NONE")):
            yield node
        elif isinstance(node, ast.Assign) and _is(node.value, False):
            targets = [t.attr for t in node.targets if isinstance(t, ast.Attribute)]
            if {"verify", "check_hostname"} & set(targets):
                yield node


def _credentials(source: _Source) -> Iterator[ast.AST]:
    for node in source.nodes:
        if isinstance(node, ast.Assign) and _is_text(node.value):
            if any(isinstance(t, ast.Name) and _SECRET.search(t.id) for t in node.targets):
                yield node
        elif isinstance(node, ast.keyword) and node.arg and _SECRET.search(node.arg) and _is_text(node.value):
            yield node.value
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and _LOGIN.search(node.value):
            yield node
    for call in source.calls("os.environ.get", "os.getenv"):
        if len(call.args) > 1 and _is_text(call.args[1]) and _SECRET.search(ast.unparse(call.args[0])):
            yield call


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str) and len(node.value) >= 4


def _writable(source: _Source) -> Iterator[ast.AST]:
    for call in source.methods("chmod", "open", "makedirs", "mkdir", "touch", "umask"):
        numbers = [a.value for a in [*call.args, *(word.value for word in call.keywords)]
                   if isinstance(a, ast.Constant) and type(a.value) is int]  # fmt: skip
        if dotted(call.func) == "os.umask":
            if numbers == [0]:
                yield call
        elif any(mode & 0o002 for mode in numbers):
            yield call


def _xml(source: _Source) -> Iterator[ast.AST]:
    for call in source.methods("XMLParser"):
        for name, value in _DANGEROUS_XML.items():
            given = _keyword(call, name)
            if given is not None and _is(given, value):
                yield given


def _pickle(source: _Source) -> Iterator[ast.AST]:
    return source.calls("pickle.loads", "pickle.load", "pickle.Unpickler")


def _html(source: _Source) -> Iterator[ast.AST]:
    for node in source.nodes:
        if isinstance(node, ast.JoinedStr) and _has_tag(node):
            yield from (p for p in node.values if isinstance(p, ast.FormattedValue) and not _is_escaped(p.value))
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Mod) and _has_tag(node):
            for side in (node.left, node.right):
                if isinstance(side, ast.Name) and side.id in source.parameters:
                    yield side
    for call in source.methods("format"):
        base = call.func.value if isinstance(call.func, ast.Attribute) else call.func
        values = source.assigned.get(base.id, []) if isinstance(base, ast.Name) else [base]
        if any(_has_tag(value) for value in values) and not all(map(_is_escaped, call.args)):
            yield call


def _has_tag(node: ast.AST) -> bool:
    parts = (part.value for part in ast.walk(node) if isinstance(part, ast.Constant))
    return any(isinstance(text, str) and _TAG.search(text) for text in parts)


def _is_escaped(node: ast.expr) -> bool:
    return isinstance(node, ast.Call) and dotted(node.func).rpartition(".")[2] in ("escape", "quote")


def _jwt(source: _Source) -> Iterator[ast.AST]:
    if not any(source.calls("jwt.decode")):
        return
    for node in source.nodes:
        if isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                if isinstance(key, ast.Constant) and str(key.value).startswith("verify_") and _is(value, False):
                    yield value
    for call in source.calls("jwt.decode"):
        algorithms = _keyword(call, "algorithms")
        if algorithms is not None:
            yield from (n for n in ast.walk(algorithms) if isinstance(n, ast.Constant) and n.value == "none")


def _archive(source: _Source) -> Iterator[ast.AST]:
    if not any(source.calls("tarfile.open")):
        return
    for call in source.methods("extractall", "extract"):
        chosen = _keyword(call, "filter")
        if not (isinstance(chosen, ast.Constant) and chosen.value in ("data", "tar")):
            yield call


def _temporary(source: _Source) -> Iterator[ast.AST]:
    yield from source.calls("tempfile.mktemp")
    for node in source.nodes:
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("/tmp/"):
            yield node


def _forgery(source: _Source) -> Iterator[ast.AST]:
    if any(isinstance(node, ast.Attribute) and node.attr in ("hostname", "netloc") for node in source.nodes):
        return
    for call in source.calls(*_FETCHES):
        address = _first(call)
        if isinstance(address, ast.Name) and address.id in source.parameters:
            yield call


CHECKS: Mapping[str, Callable[[_Source], Iterator[ast.AST]]] = {
    "sql_injection": _sql,
    "shell_injection": _shell,
    "path_traversal": _path,
    "code_injection": _evaluated,
    "weak_password_hash": _password,
    "predictable_token": _token,
    "unsafe_yaml": _yaml,
    "tls_off": _tls,
    "hardcoded_credentials": _credentials,
    "world_writable": _writable,
    "xml_entities": _xml,
    "unsafe_pickle": _pickle,
    "cross_site_scripting": _html,
    "unverified_jwt": _jwt,
    "unsafe_archive": _archive,
    "temporary_file": _temporary,
    "request_forgery": _forgery,
}
"""Name of a weakness -> the places where it is."""
