"""What every page shares: escaping, the stylesheet, the content security policy.

Knows no card and no chart. The policy of a page made here forbids every request, every style but its one stylesheet
and every script but its own (most have none), by hash, so that even text that slipped through the escaping could do
nothing.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import re
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from mien.errors import RunError
from mien.store import write_atomic

# Controls that a browser may drop, mangle or obey: C0 and C1 except tab and newline, lone surrogates, and the marks
# that override the direction of the text after them.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069\ufffe\uffff]")


def clean(text: str) -> str:
    """Replace control characters by a visible `⟨U+202E⟩`, so that text can neither hide nor reorder what it says."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n")
    return _CONTROL.sub(lambda match: f"⟨U+{ord(match.group()):04X}⟩", lines)


def _finalize(value: object) -> object:
    """Every expression of a template passes here before it is escaped; finished markup was cleaned when it was made."""
    return value if hasattr(value, "__html__") else clean(str(value))


def _resource(name: str) -> str:
    return files("mien.report").joinpath(name).read_text(encoding="utf-8")


@functools.cache
def _environment() -> Environment:
    return Environment(
        loader=FunctionLoader(_resource),
        autoescape=True,
        finalize=_finalize,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def embed(value: object) -> Markup:
    """JSON for a `<script type="application/json">`: valid JSON that can neither end the element nor open a comment.

    Every string in it is passed through `clean`, so a script that shows one has nothing left to disarm.

    Raises:
        ValueError: a number that is NaN or infinite, which JSON does not have.
    """
    text = json.dumps(_cleaned(value), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Markup(text.translate(_OPENERS))  # noqa: S704  escaped by the line itself


_OPENERS = {ord(character): f"\\u{ord(character):04x}" for character in "<>&\u2028\u2029"}


def _cleaned(value: object) -> object:
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, dict):
        return {clean(str(key)): _cleaned(item) for key, item in value.items()}
    return [_cleaned(item) for item in value] if isinstance(value, list | tuple) else value


def _hash(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def render(template: str, *, styles: Sequence[str] = (), scripts: Sequence[str] = (), **context: object) -> str:
    """Fill a template of this package. It gets `style`, `script` and `policy` besides what the caller gives.

    `styles` and `scripts` name files of this package: the first follow the common stylesheet, the second are the
    page's one script.
    """
    style = "".join(map(_resource, ("page.css", *styles)))
    script = "".join(map(_resource, scripts))
    allowed = f"style-src 'sha256-{_hash(style)}'" + (f"; script-src 'sha256-{_hash(script)}'" if script else "")
    policy = f"default-src 'none'; {allowed}; img-src data:; base-uri 'none'; form-action 'none'"
    # Both are ours and must reach the page byte for byte, or their hashes would not match.
    given = {"style": Markup(style), "script": Markup(script), "policy": policy}  # noqa: S704
    return _environment().get_template(template).render(**given, **context)


def write_page(text: str, path: Path) -> Path:
    """Write a page into an existing folder, whole or not at all, and return its path.

    Raises:
        RunError: the folder is missing or cannot be written.
    """
    if not path.parent.is_dir():
        raise RunError(f"Cannot write {path.name}: there is no folder {path.parent}. Create it first.")
    write_atomic(path, text)
    return path
