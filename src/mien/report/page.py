"""What every page shares: escaping, the stylesheet, the content security policy.

Knows no card and no chart. A page made here holds no script; its policy forbids every request and every style but
the one stylesheet, by hash, so that even text that slipped through the escaping could do nothing.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import re
from importlib.resources import files

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

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


def render(template: str, **context: object) -> str:
    """Fill a template of this package. It gets `style` and `policy` besides what the caller gives."""
    style = _resource("page.css")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; form-action 'none'"
    # The stylesheet is ours and must reach the page byte for byte, or its hash would not match.
    return _environment().get_template(template).render(style=Markup(style), policy=policy, **context)  # noqa: S704
