"""The thread around a live batch: requests come from any thread, events go out of this one.

It sleeps while there is nothing to do. What goes wrong with one answer ends that answer; the engine goes on. This file
does not know models' insides, HTTP or gauges.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from functools import partial
from types import TracebackType

import torch

from mien.engines.hf_live import Event, LiveBatch
from mien.errors import InputError, ModelError
from mien.live import LiveEnd, LiveEvent, LiveRequest, Load
from mien.models import Model
from mien.records import ModelInfo

Sink = Callable[[LiveEvent], None]


class HfLiveEngine:
    """`live.LiveEngine` over a transformers model. While it is open, no other thread may put hooks on the model.

    Args:
        model: what writes.
        probes: layer -> `[p_l, d]`; readings have the probes of all layers side by side, layers ascending.
        max_rows: most answers that are written at a time; further requests wait, first come, first served.
        cache_tokens: most tokens whose keys and values are held, unused columns included; None: what 2 GiB hold.
            A request waits until all could become as long as they may. An eighth as many of answers that are over are
            kept beside it, for requests that begin alike.
        prefill_tokens: most prompt tokens that are read between two tokens of those who write.

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
        self._info = model.info
        self._batch: LiveBatch
        self._wake = threading.Condition()
        # What other threads touch, under the condition's lock.
        self._sinks: dict[str, Sink] = {}
        self._new: list[LiveRequest] = []
        self._given_up: list[str] = []
        self._load = Load(0, 0, 0)
        self._closing = False
        make = partial(
            LiveBatch, model, probes, max_rows=max_rows, cache_tokens=cache_tokens, prefill_tokens=prefill_tokens
        )
        self._failed: BaseException | None = None
        made = threading.Event()
        self._thread = threading.Thread(target=self._work, args=(make, made), name="mien-live", daemon=True)
        self._thread.start()
        made.wait()
        if self._failed is not None:
            raise self._failed

    def __enter__(self) -> HfLiveEngine:
        return self

    def __exit__(self, _kind: type[BaseException] | None, _error: object, _trace: TracebackType | None) -> None:
        self.close()

    @property
    def info(self) -> ModelInfo:
        return self._info

    def submit(self, request: LiveRequest, sink: Sink) -> None:
        """See `live.LiveEngine`. An answer of no tokens (`max_tokens=0`, with `read`) reads the prompt's spans only.

        A sink that raises has its request cancelled.
        """
        self._batch.check(request)
        with self._wake:
            if self._closing:
                raise ModelError("The engine is closing and takes on nothing more; ask another one, or later.")
            if request.id in self._sinks:
                raise InputError(f"The id {request.id!r} is in use by a request that has not ended; choose another.")
            # A cancellation that came after the end of an earlier request of this name.
            self._given_up = [id for id in self._given_up if id != request.id]
            self._sinks[request.id] = sink
            self._new.append(request)
            self._wake.notify()

    def cancel(self, id: str) -> None:
        with self._wake:
            if id in self._sinks:
                self._given_up.append(id)
                self._wake.notify()

    def load(self) -> Load:
        with self._wake:
            now, new = self._load, self._new
            tokens = sum(len(r.prompt_ids) for r in new)
            return Load(now.running, now.waiting + len(new), now.waiting_tokens + tokens)

    def close(self, drain: float = 0.0) -> None:
        """See `live.LiveEngine`. Called from a sink it does not wait for the thread."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        inside = threading.current_thread() is self._thread
        if drain > 0 and not inside:
            self._thread.join(drain)
        with self._wake:
            self._given_up += list(self._sinks)
            self._wake.notify()
        if not inside:
            self._thread.join()

    def _work(self, make: Callable[[], LiveBatch], made: threading.Event) -> None:
        try:
            # In this thread, which does all of the arithmetic: see `machine.apart`.
            self._batch = make()
        except BaseException as error:
            self._failed = error
            return
        finally:
            made.set()
        try:
            while self._turn():
                pass
        finally:
            self._batch.close()
            with self._wake:
                self._closing, self._new = True, []
            self._end_all(but=set())

    def _turn(self) -> bool:
        """One step; waits for work. False: it is closed."""
        batch = self._batch
        with self._wake:
            while batch.idle and not (self._new or self._given_up or self._closing):
                self._wake.wait()
            if batch.idle and not self._new and self._closing:
                return False
            for request in self._new:
                batch.admit(request)
            dropped, self._new, self._given_up = self._given_up, [], []
            self._load = batch.load()
        try:
            if dropped:
                self._tell(batch.drop(dropped))
            for events in batch.passes():
                self._tell(events)
        except Exception:  # never the end of the thread
            self._tell(batch.abandon())
            self._end_all(but=batch.ids())
        return True

    def _end_all(self, but: set[str]) -> None:
        """Nobody waits for ever: what is not being written ends."""
        with self._wake:
            left = set(self._sinks) - but - {request.id for request in self._new}
        self._tell([(id, LiveEnd("error", (), "", error="The engine broke down; try again.")) for id in left])

    def _tell(self, events: list[Event]) -> None:
        with self._wake:
            self._load = self._batch.load()  # first: who is told may ask
        for id, event in events:
            with self._wake:
                sink = self._sinks.pop(id, None) if isinstance(event, LiveEnd) else self._sinks.get(id)
            if sink is None:
                continue
            try:
                sink(event)
            except Exception:  # whoever listens is gone
                self.cancel(id)
