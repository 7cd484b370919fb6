"""Where a webhook may go: URL checks, and which addresses are open to the world. It does not send anything."""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
import socket
from dataclasses import dataclass

import httpx

from mien.errors import InputError

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
MAX_URL = 2000


class Refused(Exception):
    """A target's name leads where it must not; `str()` is a verb phrase."""


@dataclass(frozen=True, slots=True)
class Target:
    """A checked webhook."""

    url: httpx.URL
    key: str
    """Names it in the database, which so holds no token that stands in a URL."""

    @property
    def host(self) -> str:
        """For messages and logs: the path and the query may be secrets."""
        return self.url.netloc.decode("ascii")

    @property
    def port(self) -> int:
        """The URL's, or its scheme's."""
        return self.url.port or (443 if self.url.scheme == "https" else 80)


def check_target(text: str, allow_private: bool) -> Target:
    """A webhook's URL. Raises InputError, one sentence that does not quote it, since it may hold a token."""
    wrong = _wrong(text)
    if wrong is None:
        url = httpx.URL(text.strip())
        if not allow_private and _plainly_private(url.host):
            wrong = f"{url.host} is in a private network; allow those explicitly if that is meant"
        else:
            return Target(url, hashlib.sha256(str(url).encode()).hexdigest())
    raise InputError(f"A webhook cannot be used: {wrong}.")


def _wrong(text: str) -> str | None:
    text = text.strip()
    if not text or len(text) > MAX_URL:
        return f"its URL must have 1 to {MAX_URL} characters"
    if not text.isprintable() or " " in text:
        return "its URL holds blanks"
    try:
        url = httpx.URL(text)
    except (httpx.InvalidURL, ValueError):
        return "it is not a URL; give one like https://host/path"
    if url.scheme not in ("http", "https") or not url.host:
        return "its URL must begin with http:// or https:// and name a host"
    if url.userinfo:
        return "its URL holds a user name or password; take them out, and let the receiver check the signature"
    if url.fragment:
        return "its URL has a part after #, which is never sent; take it out"
    if url.port is not None and not 0 < url.port < 65536:
        return "its URL's port is not between 1 and 65535"
    return None


def _plainly_private(host: str) -> bool:
    """What needs no look-up. Names are checked at each delivery, as what they lead to may change."""
    try:
        return not is_public(ipaddress.ip_address(host))
    except ValueError:
        name = host.rstrip(".").lower()
        return name == "localhost" or name.endswith(".localhost")


def is_public(address: Address) -> bool:
    """Whether an address is of the internet at large: not of this machine, a private network, a link, a group, or
    none. An IPv6 address that stands for an IPv4 one is judged by that."""
    if isinstance(address, ipaddress.IPv6Address):
        stands_for = address.ipv4_mapped
        if address in _NAT64:
            stands_for = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if stands_for is not None:
            return is_public(stands_for)
        if address.sixtofour is not None and not is_public(address.sixtofour):
            return False
    return address.is_global and not (address.is_multicast or address.is_reserved or address.is_unspecified)


async def resolve(host: str, port: int) -> list[str]:
    """Addresses of a name, as the system gives them. Raises OSError or ValueError if it has none."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def check_addresses(found: list[str], allow_private: bool) -> list[Address]:
    """The addresses to try, in order. One private address among them refuses them all. Raises Refused."""
    addresses = [ipaddress.ip_address(text) for text in found]
    if not addresses:
        raise Refused("has no address")
    if not allow_private and not all(map(is_public, addresses)):
        raise Refused("leads into a private network, which is not allowed")
    return addresses
