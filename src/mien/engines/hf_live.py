"""Answers that come and go in one batch: the steps of `live.LiveEngine`, without its thread.

A step reads on some prompts, at most so many tokens, and draws one token for every answer that writes, in one pass if
the model's attention allows it. Each answer has its own sampling, random stream, interventions, stop strings and
readings, and none of them depends on who else is in the batch. This file does not know threads, HTTP or gauges.
Shapes: b rows of a pass, p probes, d width.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence

import torch

from mien.engines.hf_answer import Answer
from mien.engines.hf_batch import cache_bytes_per_token
from mien.engines.hf_hooks import EditError, Edits, RowHooks, edits_of
from mien.engines.hf_outcome import Outcome
from mien.engines.hf_pass import Passes, positions_of, require_servable
from mien.engines.hf_rows import WORTH, Rows
from mien.engines.hf_single import SingleTokens
from mien.engines.sampling import Chooser, check_sampling
from mien.engines.stops import special_ids
from mien.errors import InputError, ModelError
from mien.live import LiveEvent, LiveRequest, Load
from mien.models import Model
from mien.residual import require_fit

CACHE_BYTES = 2 << 30
"""Memory for keys and values, if nothing else is said."""
KEPT = 1 / 8
"""Of so many tokens as the memory holds, for answers that are over."""
Event = tuple[str, LiveEvent]
"""A request's id and what happened to it."""


class LiveBatch:
    """Answers being written, and requests that wait for a place. For one thread only.

    Args:
        model: what writes. Hooks stay on it until `close`.
        probes: layer -> `[p_l, d]`; readings have the probes of all layers side by side, layers ascending.
        max_rows: most answers at a time.
        cache_tokens: most tokens whose keys and values are held, unused columns included; None: what 2 GiB hold. An
            eighth as many of answers that are over are kept beside it, for requests that begin alike.
        prefill_tokens: most prompt tokens read in a step.

    Raises:
        ModelError: the model cannot be served so.
        InputError: a probe of a layer that the model does not have, or a limit below 1.
    """

    def __init__(
        self,
        model: Model,
        probes: Mapping[int, torch.Tensor] | None = None,
        *,
        max_rows: int = 32,
        cache_tokens: int | None = None,
        prefill_tokens: int = 512,
    ) -> None:
        probes = dict(probes or {})
        _require_probes(model, probes)
        if min(max_rows, prefill_tokens) < 1 or (cache_tokens is not None and cache_tokens < 1):
            raise InputError("max_rows, cache_tokens and prefill_tokens must be 1 at least.")
        self._model = model
        self._prefill_tokens = prefill_tokens
        self.cache_tokens = cache_tokens or max(1, CACHE_BYTES // cache_bytes_per_token(model))
        self._hooks = RowHooks(model.blocks, probes)
        self._single = SingleTokens(model.net)
        try:
            self._passes = Passes(model, self._hooks)
            with torch.inference_mode():
                require_servable(model, self._passes)
        except BaseException:
            self._hooks.remove()
            self._single.remove()
            raise
        self._rows = Rows(self._passes.cache, max_rows, self.cache_tokens, int(KEPT * self.cache_tokens))
        self._waiting: deque[Answer] = deque()
        self._positions = positions_of(model)
        self._hidden = special_ids(model.chat)
        self._count = 0
        self._turns = 0
        self._table: tuple[int, Edits, Chooser] | None = None

    def check(self, request: LiveRequest) -> None:
        """Refuse what cannot be done; changes nothing, and may be called from any thread.

        Raises:
            ModelError: prompt and answer do not fit the model or the memory, or an id is not of the model.
            FingerprintError: an intervention's direction was made for another model.
            InputError: anything else that makes no sense.
        """
        model, ids, most = self._model, request.prompt_ids, request.sampling.max_tokens
        if most or not request.read:  # a prompt may be read without any answer
            check_sampling(request.sampling)
        if not ids:
            raise InputError("There is nothing that an answer could follow: the prompt has no tokens.")
        if max(ids) >= model.n_vocab or min(ids) < 0:
            bad = max(ids) if max(ids) >= model.n_vocab else min(ids)
            raise ModelError(f"The token id {bad} is not of {model.info.id}, which has {model.n_vocab}.")
        what = f"A prompt of {len(ids)} tokens and an answer of {most}"
        if self._positions is not None and len(ids) + most > self._positions:
            raise ModelError(f"{what} cannot go into the model's {self._positions} positions; shorten it.")
        if len(ids) + most > self.cache_tokens:
            raise ModelError(f"{what} do not fit the memory for {self.cache_tokens} tokens; shorten it.")
        if not all(0 <= start <= end <= len(ids) for start, end in request.spans):
            raise InputError(f"Spans of a prompt of {len(ids)} tokens must lie within it, from start to end.")
        if not 0 <= request.top_logprobs <= model.n_vocab:
            raise InputError(f"There cannot be {request.top_logprobs} alternatives to a token.")
        if not -(1 << 63) <= request.seed < 1 << 64:
            raise InputError(f"A seed is a whole number of 64 bits, not {request.seed}.")
        if any(not stop for stop in request.stop):
            raise InputError("A stop string must not be empty.")
        for layer in (layer for i in request.interventions for layer in i.layers):
            if not 0 <= layer < model.n_layers:
                raise InputError(f"There is no layer {layer}: this model has layers 0 to {model.n_layers - 1}.")
        require_fit(request.interventions, model.info)

    def admit(self, request: LiveRequest) -> None:
        """Let a request that was checked wait for its place."""
        self._count += 1
        n_probes = self._hooks.n_probes
        self._waiting.append(Answer(request, self._model.chat, self._hidden, n_probes, self._count))

    @torch.inference_mode()
    def drop(self, ids: Sequence[str]) -> list[Event]:
        """Give up requests, running or waiting; unknown ids are ignored."""
        wanted = set(ids)
        dropped = [a for a in (*self._rows.answers, *self._waiting) if a.id in wanted]
        events: list[Event] = [(a.id, a.end("cancelled")) for a in dropped]
        self._waiting = deque(a for a in self._waiting if not a.ended)
        self._clear()
        return events

    def step(self) -> list[Event]:
        """Read on prompts, and draw a token for every answer that writes."""
        return [event for events in self.passes() for event in events]

    def passes(self) -> Iterator[list[Event]]:
        """A step, pass by pass, and what each comes to."""
        rows = self._rows
        while self._waiting and rows.fits(self._waiting[0].need):
            rows.add(self._waiting.popleft())
        yield self._make_room()
        turn = True
        room = self._prefill_tokens
        # A small pass costs as much as one of this many tokens, as all of the model goes through the processor.
        least = self._prefill_tokens // 4
        while room > least and (chosen := self._whose_turn(room)):
            used = self._cost([min(a.left, room) for a in chosen])
            # Long texts that are only read need not go through all layers. Short ones do: others may begin like them.
            shallow = used > least and all(a.only_read for a in chosen)
            # Those who write come along: one pass in place of two.
            joined = turn and rows.writing > 0 and self._passes.flat and not shallow
            yield self._prompts(chosen, room, joined, shallow)
            turn &= not joined
            room -= max(used, least)
        if turn and rows.writing:
            yield self._passed(0, rows.writing)

    def ids(self) -> set[str]:
        """Requests that have not ended."""
        return {a.id for a in (*self._rows.answers, *self._waiting)}

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do."""
        return not (self._rows.answers or self._waiting)

    def load(self) -> Load:
        waiting = sum(len(a.request.prompt_ids) for a in self._waiting)
        return Load(len(self._rows.answers), len(self._waiting), waiting)

    def close(self) -> None:
        """Take the hooks off the model, and give the memory back. What runs is forgotten."""
        self._hooks.remove()
        self._single.remove()
        self._rows.answers.clear()
        self._rows.writing = 0
        self._waiting.clear()
        self._rows.shelf.clear()
        self._passes.cache.resize(0, 0)

    @torch.inference_mode()
    def abandon(self) -> list[Event]:
        """End all that run, after a failure that cannot be laid at anyone's door."""
        running = list(self._rows.answers)
        events: list[Event] = [(a.id, a.end("error", error=_sentence(RuntimeError()))) for a in running]
        self._table = None
        self._clear()
        return events

    @torch.inference_mode()
    def _whose_turn(self, room: int) -> list[Answer]:
        """Whose prompts are read on in the next pass: first, by turns, the one that has waited longest and the one
        with least left, so that neither a long prompt nor many short ones keep the others waiting; then as many as fit.

        One that begins as another in this pass does waits for the next one, and takes that part over.
        """
        prompts = sorted(self._rows.prompts, key=lambda a: (a.left, a.order))
        self._turns += 1
        if self._turns % 2:
            first = min((a.order for a in prompts), default=0)
            prompts.sort(key=lambda a: a.order != first)
        chosen: list[Answer] = []
        for answer in prompts:
            self._rows.borrow(answer)
            soon = answer.fed + WORTH
            if any(answer.shares(other, other.fed + min(other.left, room), soon) for other in chosen):
                continue
            if chosen and self._cost([min(a.left, room) for a in (*chosen, answer)]) > room:
                break
            chosen.append(answer)
        return chosen

    def _cost(self, sizes: Sequence[int]) -> int:
        """Tokens that go through the model in a pass over rows that feed so many."""
        return sum(sizes) if self._passes.flat else len(sizes) * max(sizes)

    @torch.inference_mode()
    def _prompts(self, chosen: Sequence[Answer], room: int, joined: bool, shallow: bool) -> list[Event]:
        """Read on some prompts, and draw a token for every answer that writes if they are `joined`."""
        rows = self._rows
        first = rows.front(chosen)
        start = 0 if joined else first
        events = self._passed(start, first + len(chosen) - start, room, shallow)
        for answer in chosen:
            if not answer.left and not answer.ended:
                rows.promote(answer)
        return events

    @torch.inference_mode()
    def _make_room(self) -> list[Event]:
        """Grow the cache; while there is no memory, what was kept is given up, then the newest answer ends."""
        events: list[Event] = []
        while True:
            try:
                self._rows.make_room()
            except Exception as error:  # out of memory has many names
                if len(self._rows.shelf):
                    self._rows.shelf.clear()
                    continue
                newest = max(self._rows.answers, key=lambda a: a.order)
                events.append((newest.id, newest.end("error", error=_sentence(error))))
                self._clear()
            else:
                return events

    @torch.inference_mode()
    def _passed(self, first: int, n: int, room: int = 0, shallow: bool = False) -> list[Event]:
        """Run `n` rows, tell each what came of it, and take out those that have ended. Of a prompt as many tokens are
        read as there is `room` for; `shallow`: no deeper than they are read.
        """
        events = self._told(first, self._rows.answers[first : first + n], room, shallow)
        self._clear()  # before anything is moved: it may be broken
        return events

    def _told(self, first: int, answers: Sequence[Answer], room: int, shallow: bool) -> list[Event]:
        """Run rows. If that fails, the halves, and so on: in the end only those answers end that fail alone."""
        read, why = None, ""
        try:
            read = self._run(first, answers, room, shallow)
        except Exception as error:  # any model's and any intervention's code runs here
            why = _sentence(error)
        if read is None and len(answers) > 1:
            half = len(answers) // 2
            rest = self._told(first + half, answers[half:], room, shallow)
            return self._told(first, answers[:half], room, shallow) + rest
        events: list[Event] = []
        for row, answer in enumerate(answers):
            try:
                told = read.tell(answer, row) if read is not None else [answer.end("error", error=why)]
            except Exception as error:  # tokenizers raise whatever they like
                told = [answer.end("error", error=_sentence(error))]
            events += [(answer.id, event) for event in told]
        return events

    def _run(self, first: int, answers: Sequence[Answer], room: int, shallow: bool) -> Outcome:
        """Feed the newest token of those who write, and up to `room` tokens of each of the others' prompts."""
        writing = min(max(self._rows.writing - first, 0), len(answers))
        writers, prompts = answers[:writing], answers[writing:]
        parts = [a.request.prompt_ids[a.fed : a.fed + room] for a in prompts]
        edits, chooser = self._tables(answers, writing)
        shallow |= all(a.closing for a in answers)
        until = max(*self._hooks.layers, *edits, -1) if shallow else None
        read = any(a.reads for a in writers) or any(map(Answer.wants, prompts, map(len, parts)))
        passed = self._passes.run(
            first, [*((a.newest,) for a in writers), *parts], [a.fed for a in answers],
            edits=edits, read=read, until=until,
        )  # fmt: skip
        return Outcome(passed, answers, chooser, [*[1] * writing, *map(len, parts)], writing)

    def _tables(self, answers: Sequence[Answer], writing: int) -> tuple[Edits, Chooser]:
        """Edits and sampling of answers, the first so many of which write. Where all do they are made anew only when
        others do.
        """
        rows, device = self._rows, self._model.device
        steady = writing == len(answers) == rows.writing
        if steady and self._table is not None and self._table[0] == rows.changes:
            return self._table[1:]
        edits = edits_of([a.acts if i >= writing else a.acts_since for i, a in enumerate(answers)], device)
        chooser = Chooser.of([a.request.sampling for a in answers], device)
        if steady:
            self._table = rows.changes, edits, chooser
        return edits, chooser

    def _clear(self) -> None:
        """Take those out that have ended."""
        self._rows.remove([a for a in self._rows.answers if a.ended])
        if not self._rows.answers:
            self._rows.make_room()


def _require_probes(model: Model, probes: Mapping[int, torch.Tensor]) -> None:
    for layer, vectors in probes.items():
        if not 0 <= layer < model.n_layers:
            raise InputError(f"There is no layer {layer} to read: this model has layers 0 to {model.n_layers - 1}.")
        if vectors.ndim != 2 or vectors.shape[1] != model.info.d_model:
            raise InputError(f"Probes are rows of width {model.info.d_model}, not of shape {tuple(vectors.shape)}.")


def _sentence(error: BaseException) -> str:
    """What went wrong, for the person who asked: no paths, no code."""
    if isinstance(error, EditError):
        return f"The intervention {error} could not be applied to this model ({type(error.__cause__).__name__})."
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or "memory" in str(error).lower():
        return "There was not enough memory to go on with this answer; ask for less, or later."
    return f"The model failed while it was writing this answer ({type(error).__name__})."
