"""The page at `/ui`: chat on the left, what is read off it on the right.

`session`, `talk`, `faces`, `board` and the `view_*` files know no Gradio; `layout`, `wiring` and `mount` do; `fence` is
what stands around Gradio's application.
"""

from mien.serve.ui.mount import mount_ui

__all__ = ["mount_ui"]
