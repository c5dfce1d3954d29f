"""The shipped configuration of nginx, in front of a real server."""

import contextlib
import gzip
import json
import re
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from kilowatch.config import Settings
from tests.deploy.conftest import Deployment
from tests.deploy.nginx import SHIPPED, Nginx, nginx_version
from tests.live.client import DEADLINE_S
from tests.processes import PASSWORD, wait_until

LIMIT = Settings.model_fields["max_body_bytes"].default
SECURITY = ("content-security-policy", "x-frame-options", "referrer-policy", "x-content-type-options")
HSTS = "strict-transport-security"


class TestConfiguration:
    def test_of_a_server_is_one_that_nginx_takes(self, tmp_path: Path) -> None:
        nginx = Nginx(tmp_path, 8000)
        nginx.render()
        said = nginx.test()
        assert "warn" not in said
        assert "syntax is ok" in said

    def test_of_the_container_is_one_that_nginx_takes(self, tmp_path: Path) -> None:
        nginx = Nginx(tmp_path, 8000)
        replaced = {
            "/tmp/": f"{tmp_path}/",
            "/var/lib/nginx/": f"{tmp_path}/",
            "server app:8000": "server 127.0.0.1:8000",
            "/run/secrets": str(tmp_path / "secrets"),
            "/dev/stdout": str(tmp_path / "access.log"),
            "/srv/kilowatch": str(tmp_path / "public"),
        }
        if nginx_version() < (1, 25, 1):  # has it as a word of `listen` alone
            replaced |= {"ssl default_server;\n        http2 on;": "ssl http2 default_server;"}
        nginx.render("container.conf", replaced)
        said = nginx.test()
        assert "warn" not in said
        assert "syntax is ok" in said

    @pytest.mark.parametrize("name", ["server.conf", "container.conf"])
    def test_listens_by_ipv6_as_by_ipv4(self, name: str) -> None:
        listens = re.findall(r"^ +listen (\[::\]:)?(\d+ ?[^;]*);", (SHIPPED / name).read_text(), re.MULTILINE)
        by_ipv4, by_ipv6 = ([rest for place, rest in listens if bool(place) == is_6] for is_6 in (False, True))
        assert len(by_ipv4) == 2
        assert by_ipv4 == by_ipv6

    def test_limits_bodies_as_the_application_does(self) -> None:
        limits = re.findall(r"client_max_body_size (\w+);", (SHIPPED / "kilowatch" / "site.conf").read_text())
        assert limits == ["1m", "0", str(LIMIT)], "of all, of what was refused, of readings"
        assert f"{LIMIT:,} bytes" in (SHIPPED / "errors" / "413.problem").read_text()

    def test_has_a_page_and_a_document_for_each_error_of_its_own(self) -> None:
        statuses = re.search(r"error_page ([\d ]+) /errors", (SHIPPED / "kilowatch" / "site.conf").read_text())
        assert statuses is not None
        files = {file.name for file in (SHIPPED / "errors").iterdir()}
        assert files == {f"{status}.{form}" for status in statuses[1].split() for form in ("html", "problem")}
        for file in SHIPPED.glob("errors/*.problem"):
            document = json.loads(file.read_text())
            assert document["status"] == int(file.stem)
            assert document.keys() == {"type", "title", "status", "detail"}


class TestTls:
    def _handshake(self, deployment: Deployment, version: ssl.TLSVersion) -> str | None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(deployment.nginx.directory / "secrets" / "tls_certificate")
        context.set_ciphers("ALL:@SECLEVEL=0")  # else OpenSSL itself would not offer the old ones
        context.minimum_version = context.maximum_version = version
        plain = socket.create_connection(("127.0.0.1", deployment.nginx.https_port), DEADLINE_S)
        with plain, context.wrap_socket(plain, server_hostname="localhost") as connection:
            return connection.version()

    def test_is_1_2_or_1_3(self, deployment: Deployment) -> None:
        assert self._handshake(deployment, ssl.TLSVersion.TLSv1_2) == "TLSv1.2"
        assert self._handshake(deployment, ssl.TLSVersion.TLSv1_3) == "TLSv1.3"

    @pytest.mark.filterwarnings("ignore:ssl.TLSVersion")  # that it is old is the point
    def test_is_nothing_older(self, deployment: Deployment) -> None:
        with pytest.raises(ssl.SSLError, match=r"PROTOCOL_VERSION|protocol version"):
            self._handshake(deployment, ssl.TLSVersion.TLSv1_1)

    def test_comes_with_http_2(self, deployment: Deployment) -> None:
        with deployment.client(http2=True) as client:
            answer = client.get("/health/ready")
        assert (answer.status_code, answer.http_version) == (200, "HTTP/2")

    def test_is_where_plain_http_is_sent_to(self, deployment: Deployment) -> None:
        plain = f"http://localhost:{deployment.nginx.http_port}"
        for method in ("GET", "POST"):
            answer = httpx2.request(method, f"{plain}/api/v1/sites?q=x%20y")
            assert (answer.status_code, answer.headers["location"]) == (308, "https://localhost/api/v1/sites?q=x%20y")
            assert answer.headers["server"] == "nginx"


class TestHeaders:
    @pytest.mark.parametrize("path", ["/sign-in", "/api/v1/sites", "/health/ready", "/metrics", "/nowhere"])
    def test_are_there_once(self, deployment: Deployment, path: str) -> None:
        with deployment.client(headers={"Accept": "text/html"}) as client:
            answer = client.get(path)
        names = [name.decode().lower() for name, _ in answer.headers.raw]
        for name in (*SECURITY, HSTS, "x-request-id", "cache-control"):
            assert names.count(name) <= 1, name
        for name in (HSTS, "x-content-type-options", "x-request-id", "cache-control"):
            assert names.count(name) == 1, name
        assert answer.headers["server"] == "nginx"

    def test_of_pages_are_the_applications_own(self, deployment: Deployment) -> None:
        with deployment.client() as client:
            answer = client.get("/sign-in", headers={"Accept": "text/html"})
        assert all(name in answer.headers for name in SECURITY)
        assert "unsafe" not in answer.headers["content-security-policy"]

    def test_make_session_cookies_those_of_tls(self, deployment: Deployment) -> None:
        with deployment.client() as client:
            page = client.get("/sign-in", headers={"Accept": "text/html"})
            token = re.search(r'name="form_token" value="([^"]*)"', page.text)
            form = {"email": "admin@example.org", "password": PASSWORD} | ({"form_token": token[1]} if token else {})
            answer = client.post("/sign-in", data=form, headers={"Origin": deployment.address, "Accept": "text/html"})
        cookies = answer.headers.get_list("set-cookie")
        (session,) = [cookie for cookie in cookies if cookie.startswith("__Host-kilowatch_session=")]
        assert "secure" in session.lower()


class TestClientAddress:
    def test_is_that_of_the_connection_whatever_the_client_says(self, deployment: Deployment) -> None:
        """Ten wrong passwords for an account from one address are too many, however they claim to come from elsewhere.

        Sent to nginx from different loopback addresses, so that what is counted can be told apart.
        """
        for number in range(10):
            status = self._attempt(deployment, "127.0.0.2", "a@example.org", f"10.0.0.{number}")
            assert status == 401
        assert self._attempt(deployment, "127.0.0.2", "a@example.org", "10.9.9.9") == 429
        assert self._attempt(deployment, "127.0.0.3", "a@example.org", "127.0.0.2") == 401  # another client

    def test_is_believed_of_the_proxy_alone(self, deployment: Deployment) -> None:
        """As of somebody who reaches the application's port directly, from another address than the proxy's."""

        def attempt(claimed: str) -> int:
            transport = httpx2.HTTPTransport(local_address="127.0.0.8")
            address = f"http://127.0.0.1:{deployment.server.port}"
            with httpx2.Client(base_url=address, transport=transport, headers={"X-Forwarded-For": claimed}) as client:
                form = {"username": "b@example.org", "password": "wrong password"}
                return client.post("/api/v1/auth/token", data=form).status_code

        assert [attempt(f"10.0.0.{number}") for number in range(11)] == [401] * 10 + [429]

    def _attempt(self, deployment: Deployment, source: str, email: str, claimed: str) -> int:
        headers = {
            "X-Forwarded-For": claimed,
            "X-Real-IP": claimed,
            "Forwarded": f"for={claimed}",
            "X-Forwarded-Proto": "http",
        }
        transport = httpx2.HTTPTransport(verify=deployment.nginx.trust, local_address=source)
        with httpx2.Client(base_url=deployment.address, transport=transport, headers=headers) as client:
            form = {"username": email, "password": "wrong password"}
            return client.post("/api/v1/auth/token", data=form).status_code


class TestSignIn:
    def test_is_limited_for_each_client(self, deployment: Deployment) -> None:
        def attempts(source: str, path: str, count: int) -> list[httpx2.Response]:
            transport = httpx2.HTTPTransport(verify=deployment.nginx.trust, local_address=source)
            with httpx2.Client(base_url=deployment.address, transport=transport) as client:
                return [client.post(path, data={"username": "x"}) for _ in range(count)]

        for source, path in (("127.0.0.4", "/api/v1/auth/token"), ("127.0.0.5", "/api/v1/auth/%74oken")):
            answers = attempts(source, path, 30)
            statuses = [answer.status_code for answer in answers]
            assert statuses[:20] == [422] * 20
            assert 429 in statuses
            refused = answers[statuses.index(429)]
            assert refused.headers["content-type"] == "application/problem+json"
            assert int(refused.headers["retry-after"]) > 0
            assert refused.json()["status"] == 429
        assert 429 not in [answer.status_code for answer in attempts("127.0.0.6", "/api/v1/auth/refresh", 30)]
        assert attempts("127.0.0.7", "/api/v1/auth/token", 1)[0].status_code == 422


class TestUpload:
    def test_just_within_the_limit_arrives_whole(self, deployment: Deployment) -> None:
        rows = ["metric,timestamp,value\n"]
        size, count = len(rows[0]), 0
        while size < LIMIT - 200:
            second, ms = divmod(count, 1000)
            minute, second = divmod(second, 60)
            rows.append(f"north/meter/power,2026-01-05T10:{minute:02}:{second:02}.{ms:03}Z,{count}\n")
            size, count = size + len(rows[-1]), count + 1
        rows[-1] = rows[-1].rstrip("\n") + "." + "0" * (LIMIT - size - 1) + "\n"
        body = "".join(rows).encode()
        assert len(body) == LIMIT
        with deployment.client() as client:
            answer = client.post(
                "/api/v1/readings", content=body, headers=deployment.authorization | {"Content-Type": "text/csv"}
            )
        assert answer.status_code == 200, answer.text
        assert answer.json() == {"accepted": count, "rejected": 0, "errors": []}

    @pytest.mark.parametrize("chunked", [False, True])
    def test_just_over_it_is_told_so_by_nginx(self, deployment: Deployment, log: Path, chunked: bool) -> None:
        body = b"x" * (LIMIT + 1)
        with deployment.client() as client:
            answer = client.post(
                "/api/v1/readings",
                content=iter([body[: LIMIT // 2], body[LIMIT // 2 :]]) if chunked else body,
                headers=deployment.authorization | {"Content-Type": "text/csv"},
            )
        assert (answer.status_code, answer.headers["content-type"]) == (413, "application/problem+json")
        assert f"{LIMIT:,} bytes" in answer.json()["detail"]
        assert "/api/v1/readings" not in log.read_text()

    def test_of_a_form_is_told_so_on_a_page(self, deployment: Deployment) -> None:
        with deployment.client() as client:
            answer = client.post("/account/password", content=b"x" * (LIMIT + 1), headers={"Accept": "text/html,*/*"})
        assert answer.status_code == 413
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        assert "<h1>" in answer.text


class Held:
    """An upload that a client begins, and does not end."""

    def __init__(self, nginx: Nginx, source: str, *heads: str) -> None:
        plain = socket.create_connection(("127.0.0.1", nginx.https_port), DEADLINE_S, source_address=(source, 0))
        self._connection = nginx.trust.wrap_socket(plain, server_hostname="localhost")
        head = "\r\n".join(["POST /api/v1/readings HTTP/1.1", "Host: localhost", *heads])
        self._connection.sendall(f"{head}\r\n\r\n".encode())
        self._connection.settimeout(0.02)
        self._told = b""

    def send(self, part: bytes) -> None:
        self._connection.settimeout(DEADLINE_S)
        with contextlib.suppress(OSError):  # it was refused, and the connection closed
            self._connection.sendall(part)
        self._connection.settimeout(0.02)

    def told(self) -> bytes:
        """The answer as far as it has come."""
        with contextlib.suppress(TimeoutError):
            self._told += self._connection.recv(1000)
        return self._told

    def give_up(self) -> None:
        self._connection.close()


class TestHeldUploads:
    MOST = 16

    @pytest.fixture
    def held(self) -> Iterator[list[Held]]:
        uploads: list[Held] = []
        yield uploads
        for one in uploads:
            one.give_up()

    def _refused(self, held: list[Held]) -> int:
        return sum(one.told().startswith(b"HTTP/1.1 429 ") for one in held)

    def _send(self, deployment: Deployment, source: str, rows: int, *, chunked: bool = False) -> httpx2.Response:
        lines = [f"{deployment.metric},2026-04-01T10:{n // 60 % 60:02}:{n % 60:02}Z,{n}" for n in range(rows)]
        body = "\n".join(["metric_id,timestamp,value", *lines]).encode()
        transport = httpx2.HTTPTransport(verify=deployment.nginx.trust, local_address=source)
        headers = deployment.authorization | {"Content-Type": "text/csv"}
        with httpx2.Client(base_url=deployment.address, transport=transport, headers=headers) as client:
            return client.post("/api/v1/readings", content=iter([body]) if chunked else body)

    def test_of_one_client_are_few_and_take_nothing_from_others(self, deployment: Deployment, held: list[Held]) -> None:
        part, nginx = b"x" * 1_000_000, deployment.nginx
        for _ in range(self.MOST + 14):
            held.append(Held(nginx, "127.0.0.21", f"Content-Length: {LIMIT}"))
            held[-1].send(part)
        wait_until(lambda: nginx.bytes_held() >= self.MOST * len(part) * 0.8, "they are on the disk")
        wait_until(lambda: self._refused(held) == 14, "the others are refused")
        assert nginx.bytes_held() <= self.MOST * len(part)
        assert self._send(deployment, "127.0.0.22", 5000).json()["accepted"] == 5000
        assert self._send(deployment, "127.0.0.21", 5000).status_code == 429
        assert self._send(deployment, "127.0.0.21", 1000).json()["accepted"] == 1000, "what is small is not counted"
        for one in held:
            one.give_up()
        wait_until(lambda: self._send(deployment, "127.0.0.21", 5000).is_success, "there is room again")
        assert nginx.bytes_held() == 0

    @pytest.mark.parametrize("head", ["Transfer-Encoding: chunked", "Content-Length: 100000"])
    def test_are_counted_by_what_they_may_bring(self, deployment: Deployment, held: list[Held], head: str) -> None:
        held.extend(Held(deployment.nginx, "127.0.0.23", head) for _ in range(self.MOST + 2))
        wait_until(lambda: self._refused(held) == 2, "all but two are taken")
        assert self._send(deployment, "127.0.0.23", 3, chunked=True).status_code == 429

    def test_of_many_clients_are_limited_too(self, deployment: Deployment, held: list[Held]) -> None:
        for number in range(9):
            source = f"127.0.0.{30 + number}"
            held.extend(Held(deployment.nginx, source, f"Content-Length: {LIMIT}") for _ in range(15))
        wait_until(lambda: self._refused(held) == 9 * 15 - 128, "all but 128 are refused")
        assert self._send(deployment, "127.0.0.24", 100).is_success

    def test_are_counted_by_network_where_a_client_has_many_addresses(self, tmp_path: Path, held: list[Held]) -> None:
        """By what a proxy before this one says, which is believed as server.conf shows: addresses of IPv6."""
        nginx = Nginx(tmp_path, upstream_port=1, believes="127.0.0.1")
        nginx.start()
        try:
            addresses = [f"2001:db8:0:7:{number:x}::1" for number in range(self.MOST + 3)]
            for address in [*addresses, "2001:db8:0:8::1", "192.0.2.1"]:
                claimed = f"X-Forwarded-For: {address}"
                held.append(Held(nginx, "127.0.0.1", claimed, f"Content-Length: {LIMIT}"))
            wait_until(lambda: self._refused(held[: len(addresses)]) == 3, "all but three are taken")
            assert self._refused(held) == 3
        finally:
            nginx.stop()


class TestOtherBodies:
    def test_are_small(self, deployment: Deployment, log: Path) -> None:
        with deployment.client(headers=deployment.authorization) as client:
            answer = client.post("/api/v1/sites", content=b"x" * (2**20 + 1))
        assert (answer.status_code, answer.headers["content-type"]) == (413, "application/problem+json")
        assert "1,048,576 bytes" in answer.json()["detail"]
        assert "/api/v1/sites" not in log.read_text()


class TestCompression:
    def _page(self, deployment: Deployment, path: str, accept: str) -> tuple[httpx2.Response, bytes]:
        headers = deployment.authorization | {"Accept": accept, "Accept-Encoding": "gzip"}
        with deployment.client() as client, client.stream("GET", path, headers=headers) as answer:
            return answer, b"".join(answer.iter_raw())

    @pytest.mark.parametrize(
        ("path", "accept"),
        [
            ("/api/v1/openapi.json", "application/json"),
            ("/sign-in", "text/html"),
            ("/api/v1/metrics/1/history?start=2026-01-01T00:00:00Z&end=2026-01-08T00:00:00Z&resolution=1h", "text/csv"),
        ],
    )
    def test_is_of_texts(self, deployment: Deployment, path: str, accept: str) -> None:
        answer, raw = self._page(deployment, path, accept)
        assert answer.status_code == 200
        assert answer.headers["content-encoding"] == "gzip"
        assert "accept-encoding" in answer.headers["vary"].lower()
        assert gzip.decompress(raw)

    def test_keeps_what_changes_are_checked_with(self, deployment: Deployment) -> None:
        """nginx makes a strong ETag weak where it compresses; a change with it is made all the same."""
        metrics = [{"key": f"power_{number}", "quantity": "power", "unit": "kW"} for number in range(10)]
        body = {"name": "Big", "kind": "generic", "metrics": metrics}
        made = deployment.server.send("POST", "/sites/1/devices", body, deployment.token)
        path = f"/api/v1/devices/{made['id']}"
        answer, _ = self._page(deployment, path, "application/json")
        assert answer.headers["content-encoding"] == "gzip"
        assert answer.headers["etag"].startswith("W/")
        with deployment.client(headers=deployment.authorization) as client:
            change = {"If-Match": answer.headers["etag"]}
            assert client.patch(path, json={"name": "Bigger"}, headers=change).status_code == 200
            assert client.patch(path, json={"name": "Again"}, headers=change).status_code == 412


class TestStaticFiles:
    def test_come_from_nginx_itself(self, deployment: Deployment, log: Path) -> None:
        with deployment.client() as client:
            page = client.get("/sign-in", headers={"Accept": "text/html"}).text
            for address in set(re.findall(r'"(/static/[^"]+)"', page)):
                answer = client.get(address)
                assert answer.status_code == 200
                assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
                assert answer.headers["x-content-type-options"] == "nosniff"
                assert HSTS in answer.headers
                assert "x-request-id" not in answer.headers, "the application answered"
        assert "/static/" not in log.read_text()

    def test_are_the_same_as_the_applications(self, deployment: Deployment) -> None:
        files = [file for file in (deployment.nginx.public / "static").iterdir() if file.suffix != ".gz"]
        assert {file.suffix for file in files} >= {".css", ".js", ".svg"}
        with deployment.client() as client:
            for file in files:
                answer = client.get(f"/static/{file.name}")
                status, headers, body = deployment.server.ask("GET", f"/static/{file.name}")
                assert (answer.status_code, answer.content) == (status, body)
                assert answer.headers["content-type"] == headers["content-type"]
                assert answer.headers["cache-control"] == headers["cache-control"]

    def test_are_compressed_beforehand(self, deployment: Deployment) -> None:
        style = next((deployment.nginx.public / "static").glob("style.*.css"))
        headers = {"Accept-Encoding": "gzip"}
        with deployment.client() as client, client.stream("GET", f"/static/{style.name}", headers=headers) as answer:
            assert b"".join(answer.iter_raw()) == style.with_name(style.name + ".gz").read_bytes()

    def test_of_another_version_are_asked_for_at_the_application(self, deployment: Deployment) -> None:
        style = next((deployment.nginx.public / "static").glob("style.*.css"))
        hidden = style.rename(style.with_suffix(".hidden"))
        packed = style.with_name(style.name + ".gz").rename(style.with_suffix(".packed"))
        try:
            with deployment.client() as client:
                answer = client.get(f"/static/{style.name}")
                assert (answer.status_code, "x-request-id" in answer.headers) == (200, True)
                assert client.get("/static/nothing.css").status_code == 404
        finally:
            hidden.rename(style)
            packed.rename(style.with_name(style.name + ".gz"))


class TestMetricsOfTheServer:
    def test_are_not_to_be_had_from_outside(self, deployment: Deployment, log: Path) -> None:
        with deployment.client() as client:
            for path in ("/metrics", "/metrics?x=1", "/%6detrics"):
                answer = client.get(path)
                assert answer.status_code == 404
                assert answer.headers["content-type"] == "application/problem+json"
        assert "/metrics" not in log.read_text()


class TestStream:
    def test_passes_each_event_at_once_and_goes_on_where_it_was(self, deployment: Deployment) -> None:
        """Each event is awaited before the next reading is sent: one that is kept back would never come."""
        metric, token = deployment.metric, deployment.token
        headers = deployment.authorization | {"Accept": "text/event-stream", "Accept-Encoding": "gzip"}

        def send(second: int) -> None:
            rows = [{"metric_id": metric, "timestamp": f"2026-02-01T10:00:{second:02}Z", "value": second}]
            assert deployment.server.send("POST", "/readings", {"readings": rows}, token)["accepted"] == 1

        path = f"/api/v1/stream?metric={metric}"
        for http2 in (False, True):
            with deployment.client(http2=http2, headers=headers) as client:
                with client.stream("GET", path) as answer:
                    assert answer.headers["content-type"].startswith("text/event-stream")
                    assert "content-encoding" not in answer.headers
                    lines = answer.iter_lines()
                    _until(lines, "event: latest")
                    told = []
                    for second in range(5):
                        send(second + 10 * http2)
                        told.append(_until(lines, '"value":'))
                    assert [event["data"]["value"] for event in told] == [second + 10 * http2 for second in range(5)]
                send(6 + 10 * http2)
                with client.stream("GET", path, headers={"Last-Event-ID": told[-1]["id"]}) as answer:
                    again = _until(answer.iter_lines(), "event: reading")
                    assert again["event"] == "reading"

    def test_of_a_client_that_left_is_ended_at_the_application(self, deployment: Deployment, log: Path) -> None:
        path = f"/api/v1/stream?metric={deployment.metric}"
        with deployment.client(headers=deployment.authorization) as client, client.stream("GET", path) as answer:
            next(answer.iter_lines())
        wait_until(lambda: "/api/v1/stream" in log.read_text(), "the application logs the end of the stream")


def _until(lines: Iterator[str], words: str) -> dict[str, Any]:
    """The fields of the block in which the words are."""
    fields: dict[str, Any] = {}
    found = False
    for line in lines:
        if not line:
            if found:
                return fields
            fields = {}
            continue
        found = found or words in line
        name, _, value = line.partition(": ")
        fields[name] = json.loads(value) if name == "data" else value
    raise AssertionError(f"the stream ended before {words!r}")


class TestErrors:
    def test_of_an_application_that_is_away_are_problems_or_pages(self, tmp_path: Path) -> None:
        nginx = Nginx(tmp_path, upstream_port=1)
        nginx.start()
        try:
            with httpx2.Client(base_url=f"https://localhost:{nginx.https_port}", verify=nginx.trust) as client:
                program = client.get("/api/v1/sites", headers={"Accept": "text/html"})
                person = client.get("/sites", headers={"Accept": "text/html,application/xhtml+xml"})
                other = client.get("/sites", headers={"Accept": "application/json"})
            for answer in (program, person, other):
                assert answer.status_code == 502
                assert int(answer.headers["retry-after"]) > 0
                assert answer.headers["cache-control"] == "no-store"
                assert HSTS in answer.headers
                assert "x-request-id" in answer.headers
            assert program.json()["status"] == other.json()["status"] == 502
            assert program.headers["content-type"] == "application/problem+json"
            assert person.headers["content-type"] == "text/html; charset=utf-8"
            assert "<h1>" in person.text
        finally:
            nginx.stop()

    def test_of_a_store_that_is_away_are_the_applications_own(self, deployment: Deployment) -> None:
        deployment.clickhouse.fail_next("refuse", "SELECT ts, value", times=6)
        window = "start=2026-01-01T00:00:00Z&end=2026-01-08T00:00:00Z&resolution=raw"
        with deployment.client(headers=deployment.authorization) as client:
            answer = client.get(f"/api/v1/metrics/{deployment.metric}/history?{window}")
        while deployment.clickhouse.faults():  # how often the client tries is its own affair
            with deployment.client(headers=deployment.authorization) as client:
                client.get(f"/api/v1/metrics/{deployment.metric}/history?{window}")
        assert (answer.status_code, answer.headers["content-type"]) == (503, "application/problem+json")
        assert answer.json()["instance"].startswith("/api/v1/metrics/")
        assert answer.headers.get_list("retry-after") == ["5"]

    def test_of_the_application_are_passed_on(self, deployment: Deployment) -> None:
        with deployment.client() as client:
            answer = client.get("/api/v1/sites")
        assert answer.status_code == 401
        assert answer.json()["instance"] == "/api/v1/sites"
        assert answer.headers["www-authenticate"] == "Bearer"


class TestLog:
    def test_has_the_request_and_no_query(self, deployment: Deployment) -> None:
        with deployment.client() as client:
            answer = client.post("/write?db=x&u=me&p=hunter2", content=b"m f=1")
        wait_until(lambda: answer.headers["x-request-id"] in deployment.nginx.log.read_text(), "it is logged")
        (line,) = [
            line for line in deployment.nginx.log.read_text().splitlines() if answer.headers["x-request-id"] in line
        ]
        entry = json.loads(line)
        assert (entry["method"], entry["path"], entry["client"]) == ("POST", "/write", "127.0.0.1")
        assert "hunter2" not in deployment.nginx.log.read_text()
