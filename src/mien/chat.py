"""Messages to token ids and back. The only file that knows chat templates, and the plain transcript of base models.

Prompt and response are tokenised apart and their ids joined: tokenising the joined text merges tokens across the
seam. This file does not know what the ids are used for.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any

from mien.errors import InputError, ModelError
from mien.records import Conversation, Message, Role

_SENTINEL = "mienprobe"
_SHORT = 8_000
"""Characters of a message whose ids are remembered."""


@dataclass(frozen=True, slots=True)
class Spanned:
    """A whole conversation as ids, with the columns that each message's own text takes up."""

    ids: tuple[int, ...]
    spans: tuple[tuple[int, int], ...]
    """`[start, end)` a message, in order; an empty span where the model's template leaves a message out."""


class Chat:
    """One model's way of writing conversations down.

    Chat models: their own template. Base models (no template): `User: ...` / `Assistant:` paragraphs, where an answer
    ends at the next `User:` line.

    Raises:
        ModelError: the tokenizer is empty, or its chat template cannot be used.
    """

    def __init__(self, tokenizer: Any, generation_config: Any = None) -> None:
        self.tokenizer = tokenizer
        # What a template puts around messages is the same few texts, over and over.
        self._around = lru_cache(maxsize=256)(self._encode)
        # A chat's next turn has all of its messages over again; four bytes a token.
        self._remembered = lru_cache(maxsize=1024)(lambda text: array("I", self._encode(text)))
        if self._encode("a tree") == self._encode("my sea"):  # what transformers makes of a folder without its files
            raise ModelError("The model's tokenizer has no words, so its files are missing; add them to the model.")
        self.templated: bool = bool(getattr(tokenizer, "chat_template", None))
        self.system_allowed = self.templated and self._takes_system()
        self.stop_ids: frozenset[int] = self._find_stop_ids(generation_config)
        """Ids that end an answer; never part of it."""
        self.stop_strings: tuple[str, ...] = () if self.templated else ("\nUser:", "\nAssistant:", "\nSystem:")
        """Texts that end an answer of a base model."""
        self.pad_id: int = self._pad_id()
        self._bos = self._own_bos()

    def prompt_ids(self, conversation: Conversation) -> tuple[int, ...]:
        """Ids of the conversation up to where the next answer begins.

        Raises:
            InputError: empty, or the last message is not the user's.
        """
        if not conversation or conversation[-1].role != "user":
            raise InputError("A conversation to be answered must end with a user message.")
        return tuple(self._encode(self._render(conversation, open_turn=True)))

    def response_ids(self, text: str) -> tuple[int, ...]:
        """Ids of an answer's text, tokenised apart from its prompt, without end-of-turn."""
        body = text if self.templated else " " + text.strip()
        return tuple(self._encode(body))

    def spanned(self, conversation: Conversation) -> Spanned:
        """Ids of a conversation that is over, read from the outside, and where each message stands in them.

        Messages are tokenised apart from what the template puts around them, so an answer has the ids that
        `response_ids` gives. Logs hold what templates refuse (two user messages in a row, an answer at the
        beginning); where a template does, neighbours of one role share a turn and a missing first question is empty.

        Raises:
            InputError: there are no messages, or the template refuses even that.
        """
        if not conversation:
            raise InputError("A conversation without messages cannot be read.")
        marked = tuple(replace(m, content=f"{_SENTINEL}{i}x") for i, m in enumerate(conversation))
        try:
            text = self._render(marked, open_turn=False)
        except InputError:
            text = self._render(_regular(marked), open_turn=False)
        ids: list[int] = []
        spans = []
        for i, message in enumerate(conversation):
            before, mark, after = text.partition(f"{_SENTINEL}{i}x")
            if not mark:
                spans.append((len(ids), len(ids)))
                continue
            body = message.content
            if not self.templated:
                before, body = before.rstrip(" "), " " + body.strip()
            ids += self._around(before)
            start = len(ids)
            ids += self._remembered(body) if len(body) <= _SHORT else self._encode(body)
            spans.append((start, len(ids)))
            text = after
        return Spanned(tuple(ids + self._around(text)), tuple(spans))

    def turns_in(self, text: str) -> Conversation:
        """The conversation in a running text that marks its turns as this model's own prompts do, an answer that is
        only begun the last of them; nothing if it marks no answer.

        What somebody wrote in other marks is no conversation to the model, and not found.
        """
        opening, following = self._marks
        where = "|".join(re.escape(mark) for mark in sorted(following, key=len, reverse=True))
        begins = max((mark for mark in opening if text.startswith(mark)), key=len, default="")
        first, *rest = re.split(f"({where})", text.removeprefix(begins)) if where else [text]
        later = zip((following[mark] for mark in rest[::2]), rest[1::2], strict=True)
        turns = [(opening.get(begins, "user"), first), *later]
        found = tuple(Message(role, content.strip()) for role, content in turns if content.strip())
        return found if any(m.role == "assistant" for m in found) else ()

    @cached_property
    def _marks(self) -> tuple[dict[str, Role], dict[str, Role]]:
        """What stands before a message in a prompt, and who then speaks: at the beginning, and after another one."""
        talks: list[tuple[Role, ...]] = [("user", "assistant", "user")]
        if self.system_allowed:
            talks.append(("system", "user", "assistant", "user"))
        opening: dict[str, Role] = {}
        following: dict[str, Role] = {}
        for roles in talks:
            marked = tuple(Message(role, f"{_SENTINEL}{i}x") for i, role in enumerate(roles))
            try:
                text = self._render(marked, open_turn=False)
            except InputError:  # a template that knows no such talk marks none
                continue
            for i, role in enumerate(roles):
                before, _, text = text.partition(f"{_SENTINEL}{i}x")
                if mark := before.rstrip():
                    (following if i else opening)[mark] = role
        return opening, following

    def end_ids(self) -> tuple[int, ...]:
        """Ids that close an answer that is learnt from: what the template ends a turn with, up to the first stop id in
        it; for a base model the beginning of the user's next line. Tokenised apart from the answer.
        """
        if not self.templated:
            return tuple(self._encode("\n\nUser:"))
        closed = self._render((Message("user", "x"), Message("assistant", _SENTINEL)), open_turn=False)
        tail = self._encode(closed.rpartition(_SENTINEL)[2])
        last = next((i for i, token in enumerate(tail) if token in self.stop_ids), None)
        return tuple(sorted(self.stop_ids)[:1] if last is None else tail[: last + 1])

    def text(self, ids: Sequence[int]) -> str:
        """The text of an answer's ids."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True)).strip()

    def raw_text(self, ids: Sequence[int]) -> str:
        """The text of ids, blanks and all: what stop strings are looked for in."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=False))

    def plain_ids(self, text: str) -> tuple[int, ...]:
        """Ids of running text that is no conversation, with the tokenizer's own beginning-of-text if it has one."""
        return tuple(self.tokenizer(text)["input_ids"])

    def _encode(self, text: str) -> list[int]:
        if not text.isascii():
            try:
                text.encode("utf-8")
            except UnicodeEncodeError as error:
                bad = ord(text[error.start])
                raise InputError(f"The text has U+{bad:04X} in it, which is no character; write it in UTF-8.") from None
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _render(self, conversation: Conversation, *, open_turn: bool) -> str:
        if not self.templated:
            return self._transcript(conversation, open_turn=open_turn)
        messages = conversation if self.system_allowed else fold_system(conversation)
        try:
            rendered = self.tokenizer.apply_chat_template(
                [{"role": m.role, "content": m.content} for m in messages],
                tokenize=False,
                add_generation_prompt=open_turn,
            )
        except Exception as error:  # templates raise whatever they like, jinja2's own error among it
            reason = " ".join(str(error).split())[:150]
            raise InputError(f"The model's chat template refuses this conversation: {reason}") from error
        return str(rendered)

    def _transcript(self, conversation: Conversation, *, open_turn: bool) -> str:
        names = {"user": "User: ", "assistant": "Assistant: ", "system": ""}
        paragraphs = [names[m.role] + m.content.strip() for m in conversation]
        text = self._bos + "\n\n".join(paragraphs)
        return text + "\n\nAssistant:" if open_turn else text

    def _own_bos(self) -> str:
        """Beginning-of-text, if the tokenizer puts it before text on its own: base models were trained with it."""
        bos = getattr(self.tokenizer, "bos_token_id", None)
        return str(self.tokenizer.bos_token) if bos is not None and list(self.plain_ids("x"))[:1] == [bos] else ""

    def _takes_system(self) -> bool:
        marker = (Message("system", _SENTINEL), Message("user", "x"))
        try:
            text = self.tokenizer.apply_chat_template(
                [{"role": m.role, "content": m.content} for m in marker], tokenize=False, add_generation_prompt=True
            )
        except Exception:
            return False
        return _SENTINEL in text

    def _find_stop_ids(self, generation_config: Any) -> frozenset[int]:
        """End-of-text ids of tokenizer and generation config, and the special token that closes an assistant turn."""
        found: set[int] = set()
        for owner in (self.tokenizer, generation_config):
            ids = getattr(owner, "eos_token_id", None)
            found.update([ids] if isinstance(ids, int) else ids or [])
        if self.templated:
            try:
                closed = self._render((Message("user", "x"), Message("assistant", _SENTINEL)), open_turn=False)
            except InputError as error:
                raise ModelError(f"This model cannot be used: {error}") from error
            special = set(self.tokenizer.all_special_ids) | set(getattr(self.tokenizer, "added_tokens_decoder", {}))
            tail = self._encode(closed.rpartition(_SENTINEL)[2]) if _SENTINEL in closed else []
            found.update(i for i in tail[:1] if i in special)
        return frozenset(found)

    def _pad_id(self) -> int:
        for name in ("pad_token_id", "eos_token_id", "unk_token_id"):
            value = getattr(self.tokenizer, name, None)
            if isinstance(value, int):
                return value
        return 0


def fold_system(conversation: Conversation) -> Conversation:
    """The same conversation for a template without a system role: system text goes before the first user message."""
    system = "\n\n".join(m.content for m in conversation if m.role == "system")
    rest = [m for m in conversation if m.role != "system"]
    first = next((i for i, m in enumerate(rest) if m.role == "user"), None)
    if system and first is not None:
        rest[first] = Message("user", f"{system}\n\n{rest[first].content}")
    return tuple(rest)


def _regular(conversation: Conversation) -> Conversation:
    """The user's words and the system's as the user's, neighbours of one role joined, the user, if silent, first."""
    joined: list[Message] = [Message("user", "")] if conversation[0].role == "assistant" else []
    for message in conversation:
        role = "user" if message.role == "system" else message.role
        if joined and joined[-1].role == role:
            parts = [joined[-1].content, message.content]
            joined[-1] = Message(role, "\n\n".join(part for part in parts if part))
        else:
            joined.append(Message(role, message.content))
    return tuple(joined)


def ask(question: str, system: str | None = None) -> Conversation:
    """A conversation of one user message, after a system prompt if there is one."""
    head = (Message("system", system),) if system else ()
    return (*head, Message("user", question))
