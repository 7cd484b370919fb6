"""Work that is done once, in a thread that ends with it."""

from __future__ import annotations

import threading

import pytest

from mien.errors import InputError
from mien.machine import apart


def test_it_gives_what_the_work_gives_and_its_thread_ends() -> None:
    found = apart(threading.current_thread)
    assert found is not threading.current_thread()
    assert not found.is_alive()


def test_what_goes_wrong_in_it_is_raised() -> None:
    def work() -> None:
        raise InputError("no such thing")

    with pytest.raises(InputError, match="no such thing"):
        apart(work)
