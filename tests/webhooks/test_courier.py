"""A request to another machine: over a real connection, and only to where it may go."""

import asyncio
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from kilowatch.webhooks.addresses import Addresses, Resolver, Target
from kilowatch.webhooks.courier import MOST_OF_ANSWER, Courier
from kilowatch.webhooks.model import Outcome
from tests.webhooks.conftest import Receiver

BODY = b'{"readings": []}'


def post(
    *urls: str,
    private: bool = True,
    resolve: Resolver | None = None,
    ssl_context: ssl.SSLContext | None = None,
    whole_within_s: float = 15,
) -> list[Outcome]:
    """Post to these, one after another, by one courier."""

    async def run() -> list[Outcome]:
        addresses = Addresses(private=private, resolve=resolve)
        async with Courier(addresses, ssl_context=ssl_context, whole_within_s=whole_within_s) as courier:
            return [await courier.post(Target.parse(url), headers={"X-Test": "1"}, body=BODY) for url in urls]

    return asyncio.run(run())


def error_of(*urls: str, **how: object) -> str:
    (outcome,) = post(*urls, **how)  # type: ignore[arg-type]  # as `post` has them
    assert outcome.error is not None
    return outcome.error


class TestPost:
    def test_sends_the_body_and_the_headers(self, receiver: Receiver) -> None:
        (outcome,) = post(f"{receiver.url}/a?b=c")
        request = receiver.next()
        assert (outcome.status, outcome.error) == (204, None)
        assert (request.path, request.body, request.headers["x-test"]) == ("/a?b=c", BODY, "1")

    def test_uses_a_connection_again(self, receiver: Receiver) -> None:
        receiver.answers = [204, 500, 204]
        assert [outcome.status for outcome in post(*[receiver.url] * 3)] == [204, 500, 204]
        assert receiver.connections == 1

    @pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
    def test_follows_no_redirect(self, receiver: Receiver, status: int) -> None:
        receiver.answers = [status]
        assert "redirects are not followed" in error_of(receiver.url)
        assert len(receiver.taken()) == 1

    def test_uses_no_proxy_of_the_environment(self, receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, "http://127.0.0.1:1")
        assert post(receiver.url)[0].status == 204

    def test_says_that_nothing_listens(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            assert "nothing listens there" in error_of(f"http://127.0.0.1:{probe.getsockname()[1]}/")

    @pytest.mark.parametrize("answer", [b"", b"SSH-2.0-OpenSSH_9.6\r\n", b"HTTP/1.1 204\r\nX: " + b"x" * 1_000_000])
    def test_says_that_there_was_no_answer(self, receiver: Receiver, answer: bytes) -> None:
        def garble(handler: BaseHTTPRequestHandler) -> None:
            handler.close_connection = True
            handler.wfile.write(answer)

        receiver.answers = [garble]
        assert "The connection broke" in error_of(receiver.url)


class TestAnAnswer:
    def test_that_is_slow_is_not_waited_for(self, receiver: Receiver) -> None:
        done = threading.Event()
        receiver.answers = [lambda _handler: assert_set(done)]
        assert error_of(receiver.url, whole_within_s=0.2) == "No answer within 0.2 s."
        done.set()

    def test_whose_head_comes_drop_by_drop_is_not_waited_for(self, receiver: Receiver) -> None:
        done = threading.Event()

        def drip(handler: BaseHTTPRequestHandler) -> None:
            handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
            while not done.wait(0.01):
                handler.wfile.write(b"X-Drop: 1\r\n")

        receiver.answers = [drip]
        assert error_of(receiver.url, whole_within_s=0.2) == "No answer within 0.2 s."
        done.set()

    def test_whose_body_has_no_end_was_an_answer(self, receiver: Receiver) -> None:
        sent = 0
        ended = threading.Event()

        def pour(handler: BaseHTTPRequestHandler) -> None:
            nonlocal sent
            handler.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            chunk = b"10000\r\n" + b"x" * 65536 + b"\r\n"
            try:
                while True:
                    handler.wfile.write(chunk)
                    sent += len(chunk)
            except OSError:
                ended.set()

        receiver.answers = [pour]
        assert post(receiver.url)[0].status == 200
        assert ended.wait(10), "the connection was not closed"
        assert sent < 100 * MOST_OF_ANSWER  # what fits into the sockets' buffers is sent, too

    def test_whose_body_breaks_off_was_an_answer(self, receiver: Receiver) -> None:
        def break_off(handler: BaseHTTPRequestHandler) -> None:
            handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc")
            handler.close_connection = True

        receiver.answers = [break_off]
        (outcome,) = post(receiver.url)
        assert (outcome.status, outcome.error) == (200, None)


def assert_set(event: threading.Event) -> None:
    assert event.wait(20)


class TestAPrivateAddress:
    def test_is_refused_when_it_is_connected_to(self, receiver: Receiver) -> None:
        assert "not on the internet" in error_of(receiver.url, private=False)
        assert "not on the internet" in error_of(f"http://localhost:{receiver.port}/", private=False)
        assert receiver.connections == 0

    def test_is_refused_of_a_name_that_had_a_public_one_before(self, receiver: Receiver) -> None:
        found = iter((["8.8.8.8"], ["127.0.0.1"]))
        addresses = Addresses(private=False, resolve=lambda *_: next(found))
        assert addresses.of("rebound.test", receiver.port) == ["8.8.8.8"]  # when it was put
        (outcome,) = post(
            f"http://rebound.test:{receiver.port}/", private=False, resolve=lambda *_: addresses.of("rebound.test", 80)
        )
        assert outcome.status is None
        assert receiver.connections == 0

    def test_is_looked_up_once_for_a_connection_and_that_very_address_is_asked(self, receiver: Receiver) -> None:
        asked = []

        def resolve(host: str, port: int) -> list[str]:
            asked.append((host, port))
            return ["127.0.0.1"]

        # this name has no address but for the one that was judged
        url = f"http://hook.invalid:{receiver.port}/"
        assert [outcome.status for outcome in post(url, url, resolve=resolve)] == [204, 204]
        assert asked == [("hook.invalid", receiver.port)]
        assert receiver.next().headers["host"] == f"hook.invalid:{receiver.port}"

    def test_that_does_not_answer_leaves_the_others_their_time(self, receiver: Receiver) -> None:
        with socket.socket() as dead:
            dead.bind(("127.0.0.2", receiver.port))  # refuses: nothing listens on it
            addresses = ["127.0.0.2", "127.0.0.1"]
            assert post(f"http://two.test:{receiver.port}/", resolve=lambda *_: addresses)[0].status == 204

    def test_a_name_server_that_does_not_answer_costs_the_time_for_connecting(self) -> None:
        done = threading.Event()

        def resolve(_host: str, _port: int) -> list[str]:
            assert_set(done)
            return ["127.0.0.1"]

        assert error_of("http://slow.test/", resolve=resolve, whole_within_s=0.2) == "No answer within 0.2 s."
        done.set()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for hook.test that vouches for itself, and its key."""
    directory = tmp_path_factory.mktemp("tls")
    certificate, key = directory / "certificate.pem", directory / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-keyout", str(key), "-out", str(certificate), "-days", "2", "-subj", "/CN=hook.test"]
    command += ["-addext", "subjectAltName=DNS:hook.test"]
    subprocess.run(command, check=True, capture_output=True)
    return certificate, key


@pytest.mark.skipif(shutil.which("openssl") is None, reason="certificates for the test are made by openssl")
class TestTls:
    @pytest.fixture
    def named(self) -> list[str | None]:
        """The names that clients asked for."""
        return []

    @pytest.fixture
    def secure(self, certificate: tuple[Path, Path], named: list[str | None]) -> Iterator[Receiver]:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificate)
        note: Callable[..., None] = lambda _socket, name, _context: named.append(name)  # noqa: E731
        context.sni_callback = note
        with Receiver(tls=context) as receiver:
            yield receiver

    def trusting(self, certificate: tuple[Path, Path]) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=certificate[0])

    def test_asks_for_the_certificate_of_the_hosts_name(
        self, secure: Receiver, certificate: tuple[Path, Path], named: list[str | None]
    ) -> None:
        url = f"https://hook.test:{secure.port}/"
        (outcome,) = post(url, resolve=lambda *_: ["127.0.0.1"], ssl_context=self.trusting(certificate))
        assert (outcome.status, outcome.error) == (204, None)
        assert named == ["hook.test"]
        assert secure.next().body == BODY

    def test_refuses_a_certificate_of_another_name(self, secure: Receiver, certificate: tuple[Path, Path]) -> None:
        url = f"https://other.test:{secure.port}/"
        error = error_of(url, resolve=lambda *_: ["127.0.0.1"], ssl_context=self.trusting(certificate))
        assert error.startswith("Its certificate is not valid: ")
        assert "other.test" in error
        assert secure.taken() == []

    def test_refuses_a_certificate_that_nobody_vouches_for(self, secure: Receiver) -> None:
        error = error_of(f"https://hook.test:{secure.port}/", resolve=lambda *_: ["127.0.0.1"])
        assert error == "Its certificate is not valid: self-signed certificate."
        assert secure.taken() == []

    def test_says_that_the_other_side_speaks_no_tls(self, receiver: Receiver) -> None:
        assert error_of(f"https://127.0.0.1:{receiver.port}/") == "No TLS connection can be agreed on."
