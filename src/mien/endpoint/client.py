"""`Endpoint`: synchronous chat on top of an event loop in a thread of its own. It does not know HTTP's details."""

from __future__ import annotations

import asyncio
import concurrent.futures
import queue
import threading
import weakref
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mien.endpoint.cache import ReplyCache
from mien.endpoint.records import ChatRequest, EndpointConfig, Reply, Usage, checked
from mien.endpoint.sending import Meter, Sender
from mien.endpoint.wire import encode
from mien.errors import EndpointError
from mien.records import Message

_Answer = tuple[int, Reply | EndpointError]


class Endpoint:
    """An OpenAI-compatible chat endpoint.

    Safe to share between threads; limits hold over all of them. Connections open at the first request and close with
    `close()`, at the end of a `with` block, or with the object; a closed endpoint opens again when it is used.

    Args:
        base_url: up to and without `/chat/completions`, such as `https://host/v1`.
        model: the model's name at that endpoint.
        api_key: sent as a bearer token; from OPENAI_API_KEY if None. Never written, never shown.
        concurrency: requests in flight at once.
        requests_per_minute: if given, requests start at least `60 / requests_per_minute` seconds apart.
        timeout: seconds that one try may last in all, from connecting to the last byte.
        retries: further tries after status 429, status 5xx, a timeout or a broken connection. Nothing else is retried.
        cache_dir: folder where replies are kept. A request that was answered before is not sent again, so samples of
            one prompt need different seeds.
        price: price of a million prompt tokens and of a million completion tokens, in any currency.
        backoff: seconds before the first retry; doubles each time, with jitter, and never undercuts Retry-After.

    Raises:
        InputError: a setting cannot be used.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        api_key: str | None = None,
        *,
        concurrency: int = 8,
        requests_per_minute: float | None = None,
        timeout: float = 60.0,
        retries: int = 5,
        cache_dir: Path | None = None,
        price: tuple[float, float] | None = None,
        backoff: float = 0.5,
    ) -> None:
        settings = {name: value for name, value in locals().items() if name != "self"}
        self.config = checked(EndpointConfig, "Endpoint", settings)
        self._meter = Meter(self.config.price)
        self._cache = ReplyCache(self.config.cache_dir, self.config) if self.config.cache_dir else None
        self._lock = threading.Lock()
        self._line: _Line | None = None

    def __repr__(self) -> str:
        return f"Endpoint({self.config.host!r}, model={self.config.model!r})"

    def __enter__(self) -> Endpoint:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def usage(self) -> Usage:
        """What has been asked for so far."""
        return self._meter.usage

    def chat(
        self,
        messages: Sequence[Message | Mapping[str, str]],
        *,
        max_tokens: int,
        temperature: float,
        top_p: float = 1.0,
        seed: int | None = None,
        logprobs: int = 0,
        json_schema: Mapping[str, Any] | None = None,
    ) -> Reply:
        """One reply.

        Args:
            messages: `Message`s, or mappings with `role` and `content`.
            max_tokens: longest reply, in tokens.
            temperature: 0 is greedy.
            top_p: nucleus; 1 leaves the distribution whole.
            seed: seed of the endpoint's sampler, where it has one.
            logprobs: how many likeliest tokens to return a position, 0 to 20; 0 asks for none.
            json_schema: schema that the endpoint is asked to follow. Whether it did is the caller's to check.

        Raises:
            InputError: the request cannot be used; nothing was sent.
            EndpointError: the endpoint was given up, or answered with something that is no reply.
        """
        settings = {name: value for name, value in locals().items() if name != "self"}
        (_, answer), *_ = self.chat_many([settings])
        if isinstance(answer, EndpointError):
            raise answer
        return answer

    def chat_many(self, requests: Sequence[ChatRequest | Mapping[str, Any]]) -> Generator[_Answer, None, None]:
        """Many replies at once, each as soon as it is there: `(index in requests, reply or the error it ended in)`.

        Requests are `ChatRequest`s or mappings of `chat`'s arguments. Nothing is sent before the first answer is asked
        for, and what has not been sent when the iterator is closed never will be.

        Raises:
            InputError: a request cannot be used; nothing was sent.
        """
        bodies = []
        for index, request in enumerate(requests):
            if not isinstance(request, ChatRequest):
                request = checked(ChatRequest, f"Chat request {index + 1}", request)
            bodies.append(encode(request, self.config.model))
        return self._answers(bodies)

    def close(self) -> None:
        """Close the connections. What is still under way ends in an EndpointError."""
        with self._lock:
            line, self._line = self._line, None
        if line is not None:
            line.stop()

    def _answers(self, bodies: list[bytes]) -> Generator[_Answer, None, None]:
        answers: queue.SimpleQueue[_Answer | None] = queue.SimpleQueue()
        with self._lock:
            if self._line is None:
                self._line = _Line(self.config, self._meter)
            line = self._line
            work = asyncio.run_coroutine_threadsafe(self._work_off(line.sender, bodies, answers), line.loop)
        work.add_done_callback(lambda _: answers.put(None))
        try:
            while (answer := answers.get()) is not None:
                yield answer
            work.result()
        except concurrent.futures.CancelledError:
            raise EndpointError(f"{self.config.host} was closed while requests were under way.") from None
        finally:
            work.cancel()

    async def _work_off(self, sender: Sender, bodies: list[bytes], answers: queue.SimpleQueue[_Answer | None]) -> None:
        todo = iter(enumerate(bodies))

        async def work() -> None:
            for index, body in todo:
                try:
                    answers.put((index, await self._reply(sender, body)))
                except EndpointError as error:
                    self._meter.add(failures=1)
                    answers.put((index, error))

        async with asyncio.TaskGroup() as group:
            for _ in range(min(self.config.concurrency, len(bodies))):
                group.create_task(work())

    async def _reply(self, sender: Sender, body: bytes) -> Reply:
        kept = self._cache.get(body) if self._cache else None
        if kept is not None:
            self._meter.add(cached=1)
            return kept
        reply = await sender.post(body)
        self._meter.add(
            replies=1,
            prompt_tokens=reply.prompt_tokens,
            completion_tokens=reply.completion_tokens,
            uncounted=int(not reply.prompt_tokens),
        )
        if self._cache:
            await asyncio.to_thread(self._cache.put, body, reply)
        return reply


class _Line:
    """An event loop in a daemon thread with a sender in it. It ends when stopped, or with the object."""

    def __init__(self, config: EndpointConfig, meter: Meter) -> None:
        self.sender = Sender(config, meter)
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=_run, args=(self.loop, self.sender), name="mien-endpoint", daemon=True)
        self._thread.start()
        # Not a method: the thread must not keep alive the object whose end ends it.
        self._stop = weakref.finalize(self, self.loop.call_soon_threadsafe, self.loop.stop)

    def stop(self) -> None:
        self._stop()
        if self._thread is not threading.current_thread():
            self._thread.join()


def _run(loop: asyncio.AbstractEventLoop, sender: Sender) -> None:
    asyncio.set_event_loop(loop)
    loop.run_forever()
    loop.run_until_complete(_wind_up(sender))
    loop.close()


async def _wind_up(sender: Sender) -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await sender.close()
