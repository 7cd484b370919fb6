"""How long a prompt may be, in tokens, and what that says of a text before anybody spends the time to tokenise it.

This file does not know HTTP, or how tokens are made.
"""

from __future__ import annotations

from mien.models import Model
from mien.records import Conversation
from mien.serve.orders import Order
from mien.serve.problems import Problem


class Lengths:
    """Limits of one model and one server.

    Args:
        most: longest prompt that this server takes; None: what the model's positions allow.
    """

    def __init__(self, model: Model, most: int | None) -> None:
        self._positions, self._limit = model.positions, most
        self.most = min((n for n in (model.positions, most) if n is not None), default=None)
        """Tokens of the longest prompt."""
        # In a vocabulary a character is written as one or, byte by byte, as several: never as less.
        self._longest = max(map(len, model.chat.tokenizer.get_vocab()))

    def require_text(self, text: str, param: str) -> None:
        """Raises: Problem: it must come to more tokens than there may be."""
        self._require(len(text), param)

    def require_messages(self, messages: Conversation) -> None:
        """Raises: Problem: they must come to more tokens than there may be."""
        self._require(sum(len(m.content) for m in messages), "messages")

    def _require(self, characters: int, param: str) -> None:
        if self.most is None or characters <= self.most * self._longest:
            return
        raise Problem(400, f"The {param} are {characters} characters, more than {self.most} tokens can hold, which are "
                           "the most that are taken here; shorten them.",
                      param=param, code="context_length_exceeded")  # fmt: skip

    def room(self, order: Order, prompt: int) -> int:
        """How many tokens the answer to a prompt of so many may have.

        Raises:
            Problem: the prompt is too long, or too many tokens are asked for.
        """
        what = "prompt" if order.messages is None else "messages"
        if not prompt:
            raise Problem(400, f"{what}: there is no token to go on from.", param=what)
        if self._limit is not None and prompt > self._limit:
            raise Problem(400, f"The {what} are {prompt} tokens, and this server takes {self._limit}; shorten them.",
                          param=what, code="context_length_exceeded")  # fmt: skip
        positions, wanted = self._positions, order.sampling.max_tokens
        if positions is None:
            return wanted
        if prompt >= positions or (order.exact and prompt + wanted > positions):
            asked = f" and {wanted} of the answer" if order.exact else ""
            raise Problem(400, f"This model's maximum context length is {positions} tokens, and this is {prompt} of "
                               f"the {what}{asked}; shorten them.",
                          param=what, code="context_length_exceeded")  # fmt: skip
        return min(wanted, positions - prompt)
