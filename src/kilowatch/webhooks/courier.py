"""Posts to webhooks: the one part that speaks HTTP to other machines, and only to those that it may.

No redirects are followed and no proxies of the environment used: either could lead where the target itself may not.
"""

import asyncio
import ssl
import time
from collections.abc import Iterable, Mapping
from types import TracebackType

import anyio
import httpcore2

import kilowatch
from kilowatch.webhooks.addresses import Addresses, BadTarget, Target
from kilowatch.webhooks.model import Outcome

CONNECT_WITHIN_S = 5.0
WHOLE_WITHIN_S = 15.0
MOST_OF_ANSWER = 64 * 1024
_IDLE_KEPT_S = 30.0
_USER_AGENT = f"Kilowatch/{kilowatch.__version__}"


class Courier:
    """Takes batches to their targets, many at the same time. Used as an async context manager."""

    def __init__(
        self,
        addresses: Addresses,
        *,
        ssl_context: ssl.SSLContext | None = None,
        connect_within_s: float = CONNECT_WITHIN_S,
        whole_within_s: float = WHOLE_WITHIN_S,
    ) -> None:
        """`ssl_context`: whose certificates are believed, by default those that the system believes."""
        self._whole_within_s = whole_within_s
        self._pool = httpcore2.AsyncConnectionPool(
            ssl_context=ssl_context,
            max_connections=None,  # whoever calls bounds them
            max_keepalive_connections=64,
            keepalive_expiry=_IDLE_KEPT_S,
            network_backend=_CheckedNetwork(addresses, connect_within_s),
        )
        self._connect_within_s = connect_within_s

    async def __aenter__(self) -> "Courier":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._pool.aclose()

    async def post(self, target: Target, *, headers: Mapping[str, str], body: bytes) -> Outcome:
        """Post a body; never raises for what the other side does."""
        began = time.perf_counter()
        status, error = await self._posted(target, headers, body)
        return Outcome(status, error, round((time.perf_counter() - began) * 1000))

    async def _posted(self, target: Target, headers: Mapping[str, str], body: bytes) -> tuple[int | None, str | None]:
        try:
            with anyio.fail_after(self._whole_within_s):
                status = await self._status(target, headers, body)
        except BadTarget as error:
            return None, str(error)
        except httpcore2.ConnectTimeout:
            return None, f"No connection within {self._connect_within_s:g} s."
        except TimeoutError:
            return None, f"No answer within {self._whole_within_s:g} s."
        except httpcore2.ConnectError as error:
            return None, _no_connection(error)
        except (httpcore2.NetworkError, httpcore2.ProtocolError):
            return None, "The connection broke before there was an answer, or the answer was not HTTP."
        return status, _fault(status)

    async def _status(self, target: Target, headers: Mapping[str, str], body: bytes) -> int:
        url = httpcore2.URL(
            scheme=target.scheme.encode(), host=target.host.encode(), port=target.port, target=target.path.encode()
        )
        all_headers = [
            ("Host", target.authority),
            ("User-Agent", _USER_AGENT),
            ("Content-Length", str(len(body))),
            *headers.items(),
        ]
        extensions = {"timeout": {"connect": self._connect_within_s}}
        async with self._pool.stream("POST", url, headers=all_headers, content=body, extensions=extensions) as response:
            await self._drain(response)
            return int(response.status)

    async def _drain(self, response: httpcore2.Response) -> None:
        """Read an answer's body, so that its connection can be used again. What the status said stands without it."""
        size = 0
        try:
            with anyio.move_on_after(self._connect_within_s):
                async for part in response.aiter_stream():
                    size += len(part)
                    if size > MOST_OF_ANSWER:
                        return
        except (httpcore2.NetworkError, httpcore2.ProtocolError):
            return


def _fault(status: int) -> str | None:
    if 200 <= status < 300:
        return None
    if 300 <= status < 400:
        return f"It answered with {status}, a redirect; redirects are not followed: set the URL that is meant."
    return f"It answered with {status}."


def _no_connection(error: httpcore2.ConnectError) -> str:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"Its certificate is not valid: {cause.verify_message}."
        if isinstance(cause, ssl.SSLError):
            return "No TLS connection can be agreed on."
        cause = cause.__cause__ or cause.__context__
    return "It can't be connected to: nothing listens there, or nothing leads there."


class _CheckedNetwork(httpcore2.AsyncNetworkBackend):
    """Connects to the very addresses that were judged; TLS still asks for a certificate of the host's name."""

    def __init__(self, addresses: Addresses, within_s: float) -> None:
        self._addresses = addresses
        self._within_s = within_s
        self._network = httpcore2.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        try:
            with anyio.fail_after(timeout or self._within_s) as scope:
                addresses = await asyncio.wrap_future(self._addresses.looked_up(host, port))
                for left in range(len(addresses), 1, -1):
                    # each has its share of the time, so that one that is silent leaves some to the others
                    share = (scope.deadline - anyio.current_time()) / left
                    try:
                        return await self._network.connect_tcp(
                            addresses[-left], port, share, local_address, socket_options
                        )
                    except (httpcore2.ConnectError, httpcore2.ConnectTimeout):
                        continue
                return await self._network.connect_tcp(addresses[-1], port, None, local_address, socket_options)
        except TimeoutError as error:
            raise httpcore2.ConnectTimeout from error
