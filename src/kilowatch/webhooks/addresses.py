"""Where a webhook may go: the internet, and not the network that this server stands in (SSRF).

A name is resolved, all of its addresses are judged, and the connection is made to those very addresses: were the name
looked up once more, it could by then stand for another.
"""

import re
import socket
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from enum import Enum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import NamedTuple
from urllib.parse import urlsplit

Address = IPv4Address | IPv6Address
Resolver = Callable[[str, int], list[str]]
"""The addresses of a host, for a port. Raises `OSError` if there are none."""


class Target(NamedTuple):
    """A URL in the parts that are connected to, so that nobody reads another host out of it."""

    scheme: str
    host: str
    port: int
    path: str

    @classmethod
    def parse(cls, url: str) -> "Target":
        """Raises `ValueError`, saying what is wrong."""
        if not re.fullmatch(r"https?://[\x21-\x7e]+", url) or "\\" in url:
            raise ValueError("Input should be a URL such as https://example.org/hook, in ASCII characters")
        parts = urlsplit(url)
        if "@" in parts.netloc:
            raise ValueError("A URL with a user or password is not taken; check the signature instead")
        if "#" in url:
            raise ValueError("A URL with a fragment (#…) is not taken")
        host = parts.hostname or ""
        if not (_is_ipv6(host) if "[" in parts.netloc else re.fullmatch(r"[a-z0-9._-]{1,253}", host)):
            raise ValueError("The URL has no valid host; write a name of other letters in its xn-- form")
        port = _DEFAULT_PORTS[parts.scheme] if parts.port is None else parts.port  # raises where it is over 65535
        if port == 0:
            raise ValueError("Port 0 can't be connected to")
        return cls(parts.scheme, host, port, (parts.path or "/") + (f"?{parts.query}" if parts.query else ""))

    @property
    def authority(self) -> str:
        """As the `Host` header has it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"


_DEFAULT_PORTS = {"http": 80, "https": 443}


def _is_ipv6(host: str) -> bool:
    try:
        return IPv6Address(host).scope_id is None
    except ValueError:
        return False


class Reach(Enum):
    """From where an address can be reached."""

    PUBLIC = "public"
    PRIVATE = "private"
    NOWHERE = "nowhere"


class BadTarget(Exception):
    """Nothing may be sent there; its text says why, and not what addresses our network has."""


_PRIVATE = (
    IPv4Network("10.0.0.0/8"),
    IPv4Network("100.64.0.0/10"),  # carrier-grade NAT
    IPv4Network("127.0.0.0/8"),
    IPv4Network("172.16.0.0/12"),
    IPv4Network("192.168.0.0/16"),
    IPv6Network("::1/128"),
    IPv6Network("fc00::/7"),
)
# What `is_global` of Python 3.11 to 3.14 does not agree on, or calls global though nothing there is anybody's host.
_NOWHERE = (
    IPv4Network("192.0.0.0/24"),  # protocol assignments
    IPv4Network("192.88.99.0/24"),  # relays from 6to4, given up
    IPv6Network("3fff::/20"),  # documentation
)
_GLOBAL_V6 = IPv6Network("2000::/3")
_NAT64 = IPv6Network("64:ff9b::/96")


def reach_of(address: Address) -> Reach:
    """Whose address it is. An IPv6 address that a translator turns into an IPv4 one is judged as that."""
    if isinstance(address, IPv6Address) and (embedded := _embedded(address)) is not None:
        return reach_of(embedded)
    if _in(address, _PRIVATE):
        return Reach.PRIVATE
    if _in(address, _NOWHERE) or address.is_multicast or address.is_reserved or not address.is_global:
        return Reach.NOWHERE
    if isinstance(address, IPv6Address) and (address.scope_id is not None or address not in _GLOBAL_V6):
        return Reach.NOWHERE
    return Reach.PUBLIC


def _embedded(address: IPv6Address) -> IPv4Address | None:
    if address in _NAT64:
        return IPv4Address(address.packed[-4:])
    return address.ipv4_mapped or address.sixtofour


def _in(address: Address, networks: Iterable[IPv4Network | IPv6Network]) -> bool:
    return any(address in network for network in networks)


class Addresses:
    """Resolves the hosts of webhooks, and refuses those that may not be asked."""

    def __init__(self, *, private: bool, resolve: Resolver | None = None) -> None:
        """`private`: whether private and loopback addresses are allowed. Link-local ones never are."""
        self._allowed = {Reach.PUBLIC, Reach.PRIVATE} if private else {Reach.PUBLIC}
        self._resolve = resolve or resolve_by_system

    def of(self, host: str, port: int) -> list[str]:
        """The addresses of a host, all of which may be asked. Raises `BadTarget`."""
        try:
            found = self._resolve(host, port)
        except (OSError, UnicodeError) as error:  # the second: a label of the name is empty or too long
            raise BadTarget(f"The host {host} has no address.") from error
        if not found or any(reach_of(ip_address(address)) not in self._allowed for address in found):
            raise BadTarget(
                f"The host {host} is not on the internet, and webhooks to private networks are not allowed here "
                "(KILOWATCH_WEBHOOK_PRIVATE_ADDRESSES)."
                if Reach.PRIVATE not in self._allowed
                else f"The host {host} has an address that nothing can be sent to."
            )
        return found

    def looked_up(self, host: str, port: int) -> "Future[list[str]]":
        """`of`, in a thread that nobody has to wait for: a look-up may take long, and can't be broken off."""
        future: Future[list[str]] = Future()
        future.set_running_or_notify_cancel()

        def look_up() -> None:
            try:
                future.set_result(self.of(host, port))
            except Exception as error:
                future.set_exception(error)

        threading.Thread(target=look_up, name="webhook look-up", daemon=True).start()
        return future


def resolve_by_system(host: str, port: int) -> list[str]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))
