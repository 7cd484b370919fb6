"""Webhooks against a real receiver: signed, retried, never where they must not go, and nothing owed is forgotten.

Time is a clock that the tests move; nobody sleeps.
"""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
import json
import logging
import queue
import re
import shutil
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from email.utils import formatdate
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from mien.errors import InputError
from mien.serve.addresses import check_addresses, is_public
from mien.serve.history import DAY, History
from mien.serve.posting import sign
from mien.serve.webhooks import FIRST_PAUSE, GIVE_UP, LEASE, LONGEST_PAUSE, Webhooks, pause_after
from receiver import Answer, Got, Receiver
from sample_turns import Clock, stormy, turn

DOCS = Path(__file__).resolve().parent.parent / "docs" / "serve.md"
SECRET = "s3cret ünd more"


@pytest.fixture
def clock() -> Clock:
    return Clock(1_800_000_000.0)


@pytest.fixture
def address(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'h.db'}"


@pytest.fixture
def history(address: str, clock: Clock) -> Iterator[History]:
    with History(address, clock=clock) as opened:
        yield opened


def make(history: History, clock: Clock, *targets: str, **settings: Any) -> Webhooks:
    """Webhooks on this machine, without chance."""
    given = {"secret": SECRET, "allow_private": True, "clock": clock, "jitter": lambda: 1.0, **settings}
    return Webhooks(history, targets, given.pop("secret"), **given)


def to(*addresses: str) -> Callable[[str, int], Any]:
    """A look-up that always finds these; `.asked` has the names."""

    async def resolve(host: str, port: int) -> list[str]:
        resolve.asked.append(host)  # type: ignore[attr-defined]
        return list(addresses)

    resolve.asked = []  # type: ignore[attr-defined]
    return resolve


# What is sent


def test_an_alarm_arrives_as_it_was_recorded(history: History, clock: Clock) -> None:
    with Receiver() as receiver:
        hooks = make(history, clock, receiver.url + "?token=1")
        (alarm,) = history.record(turn("ünïcode", 3, axis="drift"))
        assert hooks.deliver() is None
    (got,) = receiver.got
    assert got.path == "/hook?token=1"
    assert got.headers["content-type"] == "application/json"
    assert got.headers["mien-event-id"] == f"{history.name}-{alarm.id}"
    assert got.headers["mien-timestamp"] == "1800000000"
    assert got.headers["host"] == f"127.0.0.1:{receiver.port}"
    assert json.loads(got.body) == {
        "event": "alarm", "history": history.name, "id": 1, "conversation": "ünïcode", "index": 3,
        "request": "ünïcode-3", "model": "m", "at": 1000.0, "gauge": "axis", "kind": "drift", "sigma": -3.0,
        "statistic": 1.5, "since": 1,
    }  # fmt: skip
    assert history.deliveries() == {"delivered": 1}


def plain_hmac(key: bytes, message: bytes) -> str:
    """RFC 2104, written out."""
    key = (hashlib.sha256(key).digest() if len(key) > 64 else key).ljust(64, b"\0")
    inner = hashlib.sha256(bytes(k ^ 0x36 for k in key) + message).digest()
    return hashlib.sha256(bytes(k ^ 0x5C for k in key) + inner).hexdigest()


@pytest.mark.parametrize("secret", ["k", SECRET, "long" * 50])
def test_another_implementation_verifies_the_signature(history: History, clock: Clock, secret: str) -> None:
    with Receiver() as receiver:
        hooks = make(history, clock, receiver.url, secret=secret)
        history.record(turn(axis="turn"))
        hooks.deliver()
    (got,) = receiver.got
    message = got.headers["mien-timestamp"].encode() + b"." + got.body
    assert got.headers["mien-signature"] == f"sha256={plain_hmac(secret.encode(), message)}"


def test_the_published_example_of_hmac() -> None:
    assert plain_hmac(b"Jefe", b"what do ya want for nothing?").startswith("5bdcc146bf60754e6a042426089575c75a003f08")
    assert sign("Jefe", "what do ya want for nothing?", b"") == "sha256=" + plain_hmac(
        b"Jefe", b"what do ya want for nothing?."
    )


def test_the_six_lines_of_the_documents_verify(history: History, clock: Clock) -> None:
    section = DOCS.read_text(encoding="utf-8").split("\n## Webhooks\n")[1].split("\n## ")[0]
    (code,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    assert len([line for line in code.splitlines() if line.strip()]) == 6
    names: dict[str, Any] = {}
    exec(code, names)
    with Receiver() as receiver:
        hooks = make(history, clock, receiver.url)
        history.record(turn(axis="turn"))
        hooks.deliver()
    (got,) = receiver.got
    now = clock.now

    def genuine(headers: dict[str, str], body: bytes, secret: str = SECRET, at: float = now) -> bool:
        names["time"].time = lambda: at
        as_sent = {name.title(): value for name, value in headers.items()}
        return bool(names["genuine"](secret, as_sent, body))

    import time

    real = time.time
    try:
        assert genuine(got.headers, got.body)
        assert not genuine(got.headers, got.body + b" ")
        assert not genuine(got.headers, got.body, secret="other")
        assert not genuine({**got.headers, "mien-timestamp": "1800000001"}, got.body)
        assert not genuine(got.headers, got.body, at=now + 3600)
    finally:
        time.time = real


def test_without_a_secret_nothing_is_signed(history: History, clock: Clock) -> None:
    with Receiver() as receiver:
        hooks = make(history, clock, receiver.url, secret=None)
        history.record(turn(axis="turn"))
        hooks.deliver()
    assert "mien-signature" not in receiver.got[0].headers


def test_every_target_is_told_once(history: History, clock: Clock) -> None:
    with Receiver() as one, Receiver() as two:
        hooks = make(history, clock, one.url, two.url, one.url)
        history.record(turn(axis="turn", evil="turn"))
        hooks.deliver()
        hooks.deliver()
    assert [len(one.got), len(two.got)] == [2, 2]


def test_what_was_recorded_before_there_were_webhooks_is_not_owed(history: History, clock: Clock) -> None:
    history.record(turn(axis="turn"))
    with Receiver() as receiver:
        assert make(history, clock, receiver.url).deliver() is None
    assert receiver.got == []


def test_the_database_holds_no_target(history: History, clock: Clock, tmp_path: Path) -> None:
    with Receiver([500]) as receiver:
        hooks = make(history, clock, receiver.url + "/hidden-token")
        history.record(turn(axis="turn"))
        hooks.deliver()
    history.close()
    stored = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b"pending" in stored
    assert b"hidden-token" not in stored


# Trying again


def tries(history: History, hooks: Webhooks, clock: Clock) -> list[float]:
    """Seconds at which a delivery is tried until nothing is owed, time moving from one due moment to the next."""
    begin, moments = clock.now, []
    while (due := hooks.deliver()) is not None:
        moments.append(clock.now - begin)
        if due > clock.now:
            clock.now = due - 0.001
            assert hooks.deliver() == due, "not tried before"
            clock.now = due
    return [*moments, clock.now - begin]


def test_pauses_double_up_to_an_hour_for_a_day(history: History, clock: Clock) -> None:
    outcomes: list[str] = []
    with Receiver([500]) as receiver:
        hooks = make(history, clock, receiver.url, outcome=outcomes.append)
        history.record(turn(axis="turn"))
        moments = tries(history, hooks, clock)
    pauses = [later - earlier for earlier, later in pairwise(moments)]
    assert pauses[:10] == pytest.approx([5, 10, 20, 40, 80, 160, 320, 640, 1280, 2560])
    assert pauses[10:] == pytest.approx([3600.0] * len(pauses[10:]))
    assert GIVE_UP - LONGEST_PAUSE <= moments[-1] <= GIVE_UP
    assert len(receiver.got) == len(moments)
    assert outcomes == ["retry"] * (len(moments) - 1) + ["dead"]
    assert history.deliveries() == {"dead": 1}
    assert {got.headers["mien-event-id"] for got in receiver.got} == {f"{history.name}-1"}
    stamps = [int(got.headers["mien-timestamp"]) for got in receiver.got]
    assert stamps == sorted(set(stamps)), "each try is signed anew"


def test_it_stops_once_it_is_taken(history: History, clock: Clock) -> None:
    outcomes: list[str] = []
    with Receiver([503, 400, 204]) as receiver:
        hooks = make(history, clock, receiver.url, outcome=outcomes.append)
        history.record(turn(axis="turn"))
        assert tries(history, hooks, clock) == pytest.approx([0, 5, 15])
    assert outcomes == ["retry", "retry", "delivered"]


def test_jitter_halves_a_pause_at_most() -> None:
    assert pause_after(1, None, lambda: 0.0) == FIRST_PAUSE / 2
    assert pause_after(1, None, lambda: 1.0) == FIRST_PAUSE
    assert pause_after(500, None, lambda: 1.0) == LONGEST_PAUSE
    assert pause_after(1, 60.0, lambda: 0.5) == 60.0
    assert pause_after(9, 1.0, lambda: 1.0) == FIRST_PAUSE * 2**8


@pytest.mark.parametrize("as_date", [False, True])
def test_retry_after_holds_everything_back(history: History, clock: Clock, as_date: bool) -> None:
    wait = formatdate(clock.now + 600, usegmt=True) if as_date else "600"
    with Receiver([Answer(429, (("Retry-After", wait),)), 204]) as receiver:
        hooks = make(history, clock, receiver.url)
        history.record(turn("c", 1, axis="turn"))
        due = hooks.deliver()
        assert due == clock.now + 600
        assert len(receiver.got) == 1
        clock.now += 601
        hooks.deliver()
        assert len(receiver.got) == 2


def test_retry_after_holds_other_alarms_back_too(history: History, clock: Clock) -> None:
    with Receiver([Answer(503, (("Retry-After", "600"),)), 204]) as receiver:
        hooks = make(history, clock, receiver.url)
        history.record(turn("c", 1, axis="turn", evil="turn"))
        assert hooks.deliver() == clock.now + 600
        assert len(receiver.got) == 1
        history.record(turn("c", 3, axis="turn"))
        assert hooks.deliver() == clock.now + 600
        assert len(receiver.got) == 1
        clock.now += 600
        assert hooks.deliver() is None
        assert len(receiver.got) == 4


def test_a_pause_beyond_the_day_is_the_end(history: History, clock: Clock) -> None:
    with Receiver([Answer(503, (("Retry-After", str(10**7)),))]) as receiver:
        hooks = make(history, clock, receiver.url)
        history.record(turn(axis="turn"))
        assert hooks.deliver() is None
    assert history.deliveries() == {"dead": 1}


def test_gone_is_the_end(history: History, clock: Clock) -> None:
    with Receiver([410]) as receiver:
        hooks = make(history, clock, receiver.url)
        history.record(turn(axis="turn"))
        assert hooks.deliver() is None
    assert history.deliveries() == {"dead": 1}


@pytest.mark.parametrize("answer", [Answer(hang=True), Answer(trickle=True)])
def test_a_receiver_that_never_ends_is_left(history: History, clock: Clock, answer: Answer) -> None:
    with Receiver([answer]) as receiver:
        hooks = make(history, clock, receiver.url, timeout=0.3)
        history.record(turn(axis="turn"))
        assert hooks.deliver() == clock.now + FIRST_PAUSE
        assert len(receiver.got) == 1


def test_nobody_there_is_tried_again(history: History, clock: Clock) -> None:
    with Receiver() as receiver:
        url = receiver.url
    hooks = make(history, clock, url)
    history.record(turn(axis="turn"))
    assert hooks.deliver() == clock.now + FIRST_PAUSE


def test_logs_name_the_host_and_no_path_and_not_every_try(
    history: History, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="mien.serve")
    with Receiver([500, 500, 204, 410]) as receiver:
        hooks = make(history, clock, receiver.url + "/hidden-token")
        for i in (1, 3):
            history.record(turn("c", i, axis="turn"))
            tries(history, hooks, clock)
    said = [record.getMessage() for record in caplog.records if record.name == "mien.serve"]
    assert not any("hidden-token" in line or SECRET in line for line in said)
    assert all(f"127.0.0.1:{receiver.port}" in line for line in said)
    assert len([line for line in said if "tried again for a day" in line]) == 1
    assert len([line for line in said if "takes alarms again" in line]) == 1
    assert len([line for line in said if "is given up" in line]) == 1


# Where it goes


def test_redirects_are_not_followed(history: History, clock: Clock) -> None:
    with Receiver() as other, Receiver([Answer(302, (("Location", other.url),))]) as receiver:
        hooks = make(history, clock, receiver.url)
        history.record(turn(axis="turn"))
        assert hooks.deliver() == clock.now + FIRST_PAUSE
    assert [len(receiver.got), len(other.got)] == [1, 0]


def test_a_name_that_leads_into_a_private_network_is_refused(history: History, clock: Clock) -> None:
    with Receiver() as receiver:
        look = to("127.0.0.1")
        hooks = make(history, clock, f"http://hooks.test:{receiver.port}/", resolve=look, allow_private=False)
        history.record(turn(axis="turn"))
        assert hooks.deliver() == clock.now + FIRST_PAUSE
        assert receiver.got == []
        assert look.asked == ["hooks.test"]


def test_one_private_address_among_public_ones_refuses_all(history: History, clock: Clock) -> None:
    from mien.serve.addresses import Refused

    with pytest.raises(Refused):
        check_addresses(["93.184.216.34", "10.0.0.1"], allow_private=False)
    assert len(check_addresses(["93.184.216.34", "10.0.0.1"], allow_private=True)) == 2
    with pytest.raises(Refused):
        check_addresses([], allow_private=True)


def test_it_connects_to_the_address_that_was_checked(history: History, clock: Clock) -> None:
    """The name means nothing to the system, and is asked for once: there is no second look-up that could differ."""
    with Receiver() as receiver:
        look = to("127.0.0.1")
        hooks = make(history, clock, f"http://hooks.test:{receiver.port}/x", resolve=look)
        history.record(turn(axis="turn"))
        assert hooks.deliver() is None
    assert receiver.got[0].headers["host"] == f"hooks.test:{receiver.port}"
    assert look.asked == ["hooks.test"]


def test_the_next_address_is_tried_if_one_does_not_answer(history: History, clock: Clock) -> None:
    with Receiver() as receiver:
        hooks = make(history, clock, f"http://hooks.test:{receiver.port}/", resolve=to("127.0.0.2", "127.0.0.1"))
        history.record(turn(axis="turn"))
        assert hooks.deliver() is None
    assert len(receiver.got) == 1


def test_a_name_that_nobody_knows_is_tried_again(history: History, clock: Clock) -> None:
    hooks = make(history, clock, "http://nowhere.invalid/", allow_private=False)
    history.record(turn(axis="turn"))
    assert hooks.deliver() == clock.now + FIRST_PAUSE


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Certificate and key of hooks.test, signed by itself."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl on PATH")
    folder = tmp_path_factory.mktemp("tls")
    cert, key = folder / "cert.pem", folder / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=hooks.test"]
    command += ["-addext", "subjectAltName=DNS:hooks.test", "-keyout", str(key), "-out", str(cert)]
    subprocess.run(command, check=True, capture_output=True)
    return cert, key


@pytest.mark.parametrize(("name", "taken"), [("hooks.test", True), ("other.test", False)])
def test_tls_is_checked_against_the_name_not_the_address(
    history: History, clock: Clock, certificate: tuple[Path, Path], name: str, taken: bool
) -> None:
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(*certificate)
    asked: list[str | None] = []
    server.sni_callback = lambda _socket, sni, _context: asked.append(sni)
    trust = ssl.create_default_context(cafile=str(certificate[0]))
    with Receiver(tls=server) as receiver:
        hooks = make(history, clock, f"https://{name}:{receiver.port}/", resolve=to("127.0.0.1"), tls=trust)
        history.record(turn(axis="turn"))
        assert (hooks.deliver() is None) == taken
    assert asked == [name]
    assert len(receiver.got) == int(taken)


PRIVATE = (
    "127.0.0.1", "127.9.9.9", "0.0.0.0", "10.1.2.3", "172.16.0.1", "172.31.255.255", "192.168.1.1", "169.254.169.254",
    "100.64.0.1", "192.0.2.1", "198.18.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255", "::", "::1", "fe80::1",
    "fe80::1%eth0", "fc00::1", "fd12::1", "ff02::1", "2001:db8::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1",
    "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "2002:7f00:1::", "2002:c0a8:101::1", "2001:0:7f00:1::",
)  # fmt: skip
PUBLIC = ("93.184.216.34", "8.8.8.8", "172.32.0.1", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808")


@pytest.mark.parametrize("text", PRIVATE)
def test_addresses_that_are_not_of_the_internet(text: str) -> None:
    assert not is_public(ipaddress.ip_address(text))


@pytest.mark.parametrize("text", PUBLIC)
def test_addresses_that_are(text: str) -> None:
    assert is_public(ipaddress.ip_address(text))


BAD = {
    "": "characters",
    "x" * 3000: "characters",
    "ftp://host/": "http",
    "host/path": "http",
    "http://": "host",
    "https:///path": "host",
    "http://user:hunter2@host/": "password",
    "http://hunter2@host/": "password",
    "https://host/a b": "blanks",
    "https://host/\x00": "blanks",
    "https://host:99999/": "",
    "https://host:x/": "",
    "https://[::1/": "",
    "https://host/#part": "#",
    "http://127.0.0.1/": "private",
    "http://[::1]:80/": "private",
    "http://169.254.169.254/latest": "private",
    "http://localhost:8000/": "private",
    "http://a.localhost/": "private",
    "http://LOCALHOST./": "private",
}


@pytest.mark.parametrize("url", BAD)
def test_a_bad_url_is_a_sentence_that_tells_no_secret(history: History, clock: Clock, url: str) -> None:
    with pytest.raises(InputError) as error:
        make(history, clock, "https://fine.example/", url, allow_private=False)
    said = str(error.value)
    assert said.startswith("A webhook cannot be used: ")
    assert said.endswith(".")
    assert BAD[url] in said
    assert "hunter2" not in said
    assert "latest" not in said


@pytest.mark.parametrize("url", ["http://127.1/", "http://2130706433/", "http://0x7f000001/"])
def test_other_ways_to_write_this_machine_are_refused_too(history: History, clock: Clock, url: str) -> None:
    """Either at once, or when the system has said what they mean."""
    try:
        hooks = make(history, clock, url, allow_private=False)
    except InputError:
        return
    history.record(turn(axis="turn"))
    assert hooks.deliver() == clock.now + FIRST_PAUSE
    assert "private" in note_of(history)


@pytest.mark.parametrize("settings", [{"secret": ""}, {"timeout": 0}, {"timeout": float("nan")}, {"timeout": 1e6}])
def test_other_bad_settings_are_sentences(history: History, clock: Clock, settings: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"^The webhooks' .*\.$"):
        make(history, clock, "https://fine.example/", **settings)


def test_too_many_targets_are_refused(history: History, clock: Clock) -> None:
    with pytest.raises(InputError, match="at most 16"):
        make(history, clock, *(f"https://fine.example/{i}" for i in range(17)))


# Its thread


def note_of(history: History) -> str:
    """Why the last delivery failed."""
    import sqlalchemy as sa

    from mien.serve import database

    with history._engine.connect() as connection:
        return str(connection.execute(sa.select(database.deliveries.c.note)).scalar())


def only(hooks: Webhooks) -> str:
    """Key of the only target."""
    (lane,) = hooks._lanes
    return lane.target.key


def received(receiver: Receiver, count: int) -> list[Got]:
    """The next requests, waited for."""
    try:
        return [receiver.arrived.get(timeout=60) for _ in range(count)]
    except queue.Empty:
        raise AssertionError(f"only {len(receiver.got)} arrived") from None


def test_a_thread_delivers_what_it_is_woken_for(history: History, clock: Clock) -> None:
    with Receiver() as receiver:
        hooks = make(history, clock, receiver.url)
        hooks.start()
        hooks.start()
        for i in range(3):
            history.record(turn("c", i, axis="turn"))
            hooks.wake()
            (got,) = received(receiver, 1)
            assert json.loads(got.body)["index"] == i
        hooks.close()
        hooks.close()
        hooks.wake()
    assert history.deliveries().get("delivered", 0) >= 2


def test_a_hanging_target_holds_up_no_other_and_no_end(history: History, clock: Clock) -> None:
    with Receiver([Answer(hang=True)]) as hanging, Receiver() as receiver:
        hooks = make(history, clock, hanging.url, receiver.url, timeout=600)
        hooks.start()
        history.record(stormy(1, 5))
        hooks.wake()
        received(hanging, 1)
        received(receiver, 5)
        hooks.close()
        assert not [thread for thread in threading.enumerate() if thread.name.startswith("mien-webhooks")]


def test_without_targets_there_is_no_thread(history: History, clock: Clock) -> None:
    hooks = make(history, clock)
    hooks.start()
    history.record(turn(axis="turn"))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("mien-webhooks")]
    assert (hooks.deliver(), history.deliveries()) == (None, {})
    hooks.close()


def test_after_a_restart_what_is_owed_goes_on(address: str, clock: Clock) -> None:
    with Receiver() as receiver:
        with History(address, clock=clock) as history:
            make(history, clock, receiver.url)
            history.record(stormy(1, 3))
            taken = history.take(only(make(history, clock, receiver.url)), clock.now, 10.0 + LEASE)
            assert taken is not None, "one is under way when the process dies"
        clock.now += 3 * DAY
        with History(address, clock=clock) as history:
            hooks = make(history, clock, receiver.url)
            hooks.start()
            ids = {json.loads(got.body)["id"] for got in received(receiver, 3)}
            hooks.close()
    assert ids == {1, 2, 3}


def test_two_processes_tell_each_alarm_once(address: str, clock: Clock) -> None:
    with Receiver() as receiver, History(address, clock=clock) as one, History(address, clock=clock) as two:
        pair = [make(history, clock, receiver.url) for history in (one, two)]
        one.record(stormy(1, 30))
        threads = [threading.Thread(target=hooks.deliver) for hooks in pair]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert one.deliveries() == {"delivered": 30}
    assert sorted(json.loads(got.body)["id"] for got in receiver.got) == list(range(1, 31))


def test_a_try_that_outlived_its_lease_changes_nothing_unless_it_succeeded(history: History, clock: Clock) -> None:
    history.owe_to(["t"])
    history.record(turn(axis="turn"))
    first = history.take("t", clock.now, 40.0)
    assert history.take("t", clock.now, 40.0) is None
    clock.now += 40
    second = history.take("t", clock.now, 40.0)
    assert first is not None
    assert second is not None
    assert (first.tries, second.tries) == (1, 2)
    history.settle(first, "dead", clock.now, "late")
    assert history.deliveries() == {"pending": 1}
    history.settle(first, "delivered", clock.now)
    assert history.deliveries() == {"delivered": 1}
    history.settle(second, "pending", clock.now, "later")
    assert history.deliveries() == {"delivered": 1}


def test_a_history_that_fails_stops_no_thread(history: History, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    with Receiver() as receiver:
        hooks = make(history, clock, receiver.url)
        history.record(turn(axis="turn"))
        real, failed = history.next_due, threading.Event()

        def fails_once(target: str) -> float | None:
            if not failed.is_set():
                failed.set()
                raise InputError("The disk is away.")
            return real(target)

        history.next_due = fails_once  # type: ignore[method-assign]
        hooks.start()
        assert failed.wait(60)
        while not receiver.got:
            hooks.wake()
        hooks.close()
    assert "The disk is away." in caplog.text


def test_resolving_gives_each_address_once() -> None:
    from mien.serve.addresses import resolve

    found = asyncio.run(resolve("127.0.0.1", 80))
    assert found == ["127.0.0.1"]
