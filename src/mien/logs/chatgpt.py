"""A conversation of ChatGPT's data export: a tree of messages, of which one branch was on the screen last.

Nodes lie in `mapping`, each with `message`, `parent` and `children`; `current_node` is the end of the visible branch.
"""

from __future__ import annotations

_SHOWN = (None, "text", "multimodal_text")
"""Kinds of content that were shown as what somebody said; others are code for tools, thoughts, profiles."""


def is_chatgpt(record: dict[object, object]) -> bool:
    """Whether a record is of this shape."""
    return isinstance(record.get("mapping"), dict)


def branch(record: dict[object, object]) -> list[object]:
    """Messages of the visible branch from its root on; one that was not shown is there without its text.

    Nodes without a message, as the root is, are not counted. Without `current_node` it is the branch of the last leaf.
    """
    mapping = record["mapping"]
    assert isinstance(mapping, dict)
    name = record.get("current_node")
    if not (isinstance(name, str) and name in mapping):
        name = next((key for key in reversed(mapping) if _is_leaf(mapping[key])), None)
    messages: list[object] = []
    seen: set[str] = set()
    while isinstance(name, str) and name not in seen and isinstance(node := mapping.get(name), dict):
        seen.add(name)  # a hostile file may go round in a circle
        if isinstance(message := node.get("message"), dict):
            messages.append(message if _is_shown(message) else {**message, "content": None})
        name = node.get("parent")
    return messages[::-1]


def _is_leaf(node: object) -> bool:
    return isinstance(node, dict) and not node.get("children")


def _is_shown(message: dict[object, object]) -> bool:
    content, metadata = message.get("content"), message.get("metadata")
    if isinstance(metadata, dict) and metadata.get("is_visually_hidden_from_conversation"):
        return False
    if isinstance(content, dict) and not any(content.get("content_type") == kind for kind in _SHOWN):
        return False
    return message.get("recipient") in (None, "all")  # anything else is a tool's name
