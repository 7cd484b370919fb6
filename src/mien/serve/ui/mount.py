"""The page put into the server's application at `/ui`."""

from __future__ import annotations

import inspect
import os
import sys
from typing import TYPE_CHECKING, Any

from mien.errors import MissingExtraError

if TYPE_CHECKING:
    from fastapi import FastAPI

    from mien.serve.server import Server

PATH = "/ui"
INSTALL = "The page is made with Gradio: pip install 'mien[serve]'."
IDLE = 0.02
"""Seconds between two looks at Gradio's queue; its own 1 ms would keep a core warm for nobody."""


def mount_ui(app: FastAPI, server: Server) -> None:
    """Put the page of a server into its application, behind whatever guards the other routes.

    Raises:
        MissingExtraError: Gradio is not installed.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when it is imported; nothing here may call elsewhere
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        import gradio as gr
    except ImportError:
        raise MissingExtraError(INSTALL) from None
    from mien.serve.ui.board import Board
    from mien.serve.ui.faces import steerable
    from mien.serve.ui.layout import Settings, lay_out
    from mien.serve.ui.session import may_decide, modes
    from mien.serve.ui.wiring import Wiring

    decides = may_decide(server.rule, server.settings.keys)
    settings = Settings(
        server.name, modes(server.rule, decides), steerable(server.catalog) if decides else None,
        server.settings.limits.max_tokens,
    )  # fmt: skip
    board = Board(server.hub, server.history)
    blocks, parts = lay_out(settings)
    with blocks:
        Wiring(server, parts, board).connect(blocks)
    blocks.queue(default_concurrency_limit=None, api_open=False, max_size=256)
    gr.mount_gradio_app(
        app, blocks, PATH, theme=_theme(gr), footer_links=[], run_history=False, ssr_mode=False, pwa=False,
        enable_monitoring=False, mcp_server=False, show_error=False, max_file_size=1,
        app_kwargs={"docs_url": None, "redoc_url": None, "openapi_url": None},
    )  # fmt: skip
    _fence(app, blocks, board)


def _fence(app: FastAPI, blocks: Any, board: Any) -> None:
    """Close what the page does not need, let its streams end with the server, and its queue sleep."""
    from starlette.routing import Mount

    from mien.serve.ui.fence import Fence

    route = next(r for r in app.routes if isinstance(r, Mount) and r.path == PATH)
    inner: Any = route.app
    route.app = Fence(inner)
    queue = blocks._queue
    queue.sleep_when_free = queue.progress_update_sleep_when_free = IDLE
    queue.ANAYLTICS_CACHE_FREQUENCY = sys.maxsize  # spelt so; it would make a table of all events after every event
    # The hub is closed when the server begins to drain: open pages must not keep it from ending.
    board.when_closed(inner.stop_event.set)


def _theme(gr: Any) -> Any:
    """Gradio's plainest theme in the page's own colours and the system's fonts, so that nothing is fetched."""
    fonts = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "Liberation Sans", "Arial", "sans-serif"]
    mono = ["ui-monospace", "Menlo", "Consolas", "Liberation Mono", "monospace"]
    theme = gr.themes.Base(font=fonts, font_mono=mono, text_size="md", radius_size="sm", spacing_size="md")
    same = {
        "body_background_fill": "var(--paper)", "body_text_color": "var(--ink)",
        "body_text_color_subdued": "var(--soft)",
        "background_fill_primary": "var(--paper)", "background_fill_secondary": "var(--raised)",
        "block_background_fill": "transparent", "block_border_width": "0px", "block_shadow": "none",
        "block_label_background_fill": "transparent", "block_label_text_color": "var(--soft)",
        "block_title_text_color": "var(--soft)", "block_title_text_weight": "400", "block_padding": "0",
        "border_color_primary": "var(--rule)", "border_color_accent": "var(--score)",
        "input_background_fill": "var(--paper)", "input_border_color": "var(--edge)",
        "input_border_color_focus": "var(--score)", "input_shadow": "none", "input_shadow_focus": "none",
        "button_primary_background_fill": "var(--score)", "button_primary_background_fill_hover": "var(--score-deep)",
        "button_primary_text_color": "var(--on-score)", "button_primary_border_color": "var(--score)",
        "button_secondary_background_fill": "var(--paper)", "button_secondary_background_fill_hover": "var(--raised)",
        "button_secondary_text_color": "var(--ink)", "button_secondary_border_color": "var(--edge)",
        "button_cancel_background_fill": "var(--paper)", "button_cancel_background_fill_hover": "var(--raised)",
        "button_cancel_text_color": "var(--alarm)", "button_cancel_border_color": "var(--alarm)",
        "slider_color": "var(--score)", "color_accent": "var(--score)", "color_accent_soft": "var(--raised)",
    }  # fmt: skip
    known = inspect.signature(theme.set).parameters
    dark = {f"{name}_dark": value for name, value in same.items() if f"{name}_dark" in known}
    return theme.set(**same, **dark)
