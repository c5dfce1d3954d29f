"""ClickHouse's HTTP interface in front of the embedded engine: a server to test against where there is none.

    python -m tests.clickhouse DIRECTORY [PORT]    # prints its port; ends when its standard input does

It speaks as much of the interface as clickhouse-connect uses: statements in the body, in the URL or in a form,
parameters (`param_…`), settings, `database`, compressed bodies and answers, error codes, `/ping`. Each request has a
connection of its own, as on a server. `POST /faults` (JSON: `{"kind": …, "statement": …, "times": …}`) makes the next
statements that begin like this go wrong:

    cut_before    the connection is cut, and nothing was done
    cut_after     the statement was done, and the connection is cut before the answer
    refuse        503, as by a server that has too many queries
    wait          the statement is done once `go_on` says so

Statements for a cluster are done as by one of a single shard, without replicas: the table that every server has is a
plain one, and the one of the plain name reads it. That shows which statement goes to which of them, and no more.
"""

import base64
import gzip
import http.client
import json
import re
import signal
import subprocess
import sys
import tempfile
import threading
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from email.parser import BytesParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qsl, urlsplit

import chdb
import lz4.frame

from kilowatch.kit.stdin import keep_standard_input

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

USER, PASSWORD = "kilowatch", "wire"
_ROOT = Path(__file__).parents[1]
_DECODERS = {"gzip": gzip.decompress, "lz4": lz4.frame.decompress, "zstd": zstd.decompress, "identity": bytes}
_ENCODERS = {"lz4": lz4.frame.compress, "zstd": zstd.compress, "gzip": gzip.compress}
# What the interface itself takes, so that it is no setting of the engine.
_OF_THE_INTERFACE = re.compile(
    r"query|database|query_id|session_id|session_timeout|session_check|compress|decompress|wait_end_of_query|quota_key|"
    r"client_protocol_version|enable_http_compression|buffer_size|role|user|password|param_.*|default_format"
)
_INSERT = re.compile(rb"\s*(INSERT INTO [^\n]*?)\s+FORMAT (\w+)[ \t]*\n?", re.IGNORECASE)
_FORMAT = re.compile(rb"\bFORMAT\s+(\w+)\s*;?\s*$", re.IGNORECASE)
# What only a cluster does, and what a single server does instead.
_OF_A_CLUSTER = (
    (re.compile(r"ON CLUSTER `\w+`"), ""),
    (re.compile(r"ENGINE = Replicated(\w+)\('[^']+', '[^']+'(?:, )?"), r"ENGINE = \1("),
    (re.compile(r"ENGINE = Distributed\(`\w+`, '(\w+)', (\w+), \w+\)"), r"ENGINE = Merge('\1', '^\2$')"),
    (re.compile(r"clusterAllReplicas\(`\w+`, ([\w.]+)\)"), r"\1"),
)
_INTO = re.compile(r"\s*INSERT INTO (\w+)")
_ANSWERS_ROWS = re.compile(rb"\s*(SELECT|WITH|SHOW|EXISTS|DESCRIBE|DESC)\b", re.IGNORECASE)
_WAIT_AT_MOST_S = 60
# https://github.com/ClickHouse/ClickHouse/blob/master/src/Server/HTTP/exceptionCodeToHTTPStatus.cpp
_STATUS = {
    "62": 400,
    "6": 400,
    "27": 400,
    "53": 400,
    "60": 404,
    "81": 404,
    "47": 404,
    "516": 403,
    "202": 503,
    "241": 500,
}


@dataclass(frozen=True)
class ClickHouse:
    """A server, and a way to have it go wrong."""

    url: str
    """Without a database."""

    def faults(self) -> list[dict[str, Any]]:
        """Those that have not come to pass yet."""
        connection = http.client.HTTPConnection("127.0.0.1", urlsplit(self.url).port or 0, timeout=10)
        connection.request("GET", "/faults")
        planned: list[dict[str, Any]] = json.loads(connection.getresponse().read())
        connection.close()
        return planned

    def fail_next(self, kind: str, statement: str, *, times: int = 1) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", urlsplit(self.url).port or 0, timeout=10)
        connection.request("POST", "/faults", json.dumps({"kind": kind, "statement": statement, "times": times}))
        assert connection.getresponse().status == 200
        connection.close()

    def go_on(self) -> None:
        """With the statement that waits; it is done when this returns."""
        connection = http.client.HTTPConnection("127.0.0.1", urlsplit(self.url).port or 0, timeout=60)
        connection.request("POST", "/go_on")
        assert connection.getresponse().status == 200
        connection.close()


class OwnClickHouse:
    """A server of one's own, for bad days: it can be killed, started again at the same port, and be made to hang."""

    def __init__(self, directory: Path) -> None:
        self._directory, self._port = directory, 0
        self.start()

    @property
    def url(self) -> str:
        return f"clickhouse://{USER}:{PASSWORD}@127.0.0.1:{self._port}"

    def start(self) -> None:
        command = [sys.executable, "-m", "tests.clickhouse", str(self._directory), str(self._port)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=_ROOT)
        assert self._process.stdout is not None
        self._port = int(self._process.stdout.readline())

    def crash(self) -> None:
        self._process.kill()
        self._process.communicate()

    def hang(self) -> None:
        """It takes connections, and no more."""
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self._process.send_signal(signal.SIGCONT)


@contextmanager
def serving(directory: Path) -> Iterator[ClickHouse]:
    """The program below, until the end."""
    command = [sys.executable, "-m", "tests.clickhouse", str(directory)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=_ROOT) as process:
        assert process.stdout is not None and process.stdin is not None
        port = int(process.stdout.readline())
        yield ClickHouse(f"clickhouse://{USER}:{PASSWORD}@127.0.0.1:{port}")
        process.stdin.close()
        process.wait(30)


class Faults:
    """What is to go wrong next."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._planned: list[dict[str, Any]] = []
        self._goes_on, self._done = threading.Event(), threading.Event()

    def plan(self, fault: dict[str, Any]) -> None:
        with self._lock:
            self._goes_on, self._done = threading.Event(), threading.Event()
            self._planned.append(fault)

    def planned(self) -> list[dict[str, Any]]:
        with self._lock:
            return list(self._planned)

    @contextmanager
    def waited(self) -> Iterator[None]:
        """Round the statement that waits."""
        self._goes_on.wait(_WAIT_AT_MOST_S)
        yield
        self._done.set()

    def go_on(self) -> None:
        """With the statement that waits; it is done when this returns."""
        self._goes_on.set()
        self._done.wait(_WAIT_AT_MOST_S)

    def next_for(self, statement: bytes) -> str | None:
        with self._lock:
            for fault in self._planned:
                if statement.lstrip().upper().startswith(fault["statement"].upper().encode()):
                    fault["times"] = fault.get("times", 1) - 1
                    if fault["times"] <= 0:
                        self._planned.remove(fault)
                    return str(fault["kind"])
        return None


class _Cut(Exception):
    """Nothing is answered."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    directory: ClassVar[str]
    faults: ClassVar[Faults]

    def do_GET(self) -> None:
        if urlsplit(self.path).path == "/ping":
            self._answer(200, b"Ok.\n")
        elif urlsplit(self.path).path == "/faults":
            self._answer(200, json.dumps(self.faults.planned()).encode())
        else:
            self.do_POST()

    def do_POST(self) -> None:
        body = self._body()
        if urlsplit(self.path).path == "/faults":
            self.faults.plan(json.loads(body))
            self._answer(200, b"")
            return
        if urlsplit(self.path).path == "/go_on":
            self.faults.go_on()
            self._answer(200, b"")
            return
        try:
            self._statement(body)
        except _Cut:
            self.close_connection = True

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            parts = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            body = b"".join(parts)
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        decoded: bytes = _DECODERS[self.headers.get("Content-Encoding", "identity")](body)
        return decoded

    def _statement(self, body: bytes) -> None:
        asked = dict(parse_qsl(urlsplit(self.path).query, keep_blank_values=True))
        if self.headers.get("Content-Type", "").startswith("multipart/form-data"):
            asked |= _form(self.headers["Content-Type"], body)
            body = b""
        if not self._may(asked):
            self._fail("Code: 516. DB::Exception: Authentication failed. (AUTHENTICATION_FAILED)")
            return
        given = asked.get("query", "").encode()
        statement = given + b"\n" + body if given and body else given or body
        fault = self.faults.next_for(statement)
        if fault == "cut_before":
            raise _Cut
        if fault == "refuse":
            self._fail("Code: 202. DB::Exception: Too many simultaneous queries. (TOO_MANY_SIMULTANEOUS_QUERIES)")
            return
        try:
            with self.faults.waited() if fault == "wait" else nullcontext():
                done, form = self._run(statement, asked)
        except RuntimeError as error:
            self._fail(str(error))
            return
        if fault == "cut_after":
            raise _Cut
        self._answer(200, done, compress=asked.get("enable_http_compression") == "1", form=form)

    def _may(self, asked: Mapping[str, str]) -> bool:
        if (basic := self.headers.get("Authorization", "")).startswith("Basic "):
            return base64.b64decode(basic[6:]).decode() == f"{USER}:{PASSWORD}"
        user = self.headers.get("X-ClickHouse-User", asked.get("user"))
        return (user, self.headers.get("X-ClickHouse-Key", asked.get("password"))) == (USER, PASSWORD)

    def _run(self, statement: bytes, asked: Mapping[str, str]) -> tuple[bytes, str | None]:
        """What the engine answers, and in which format if it is rows. Raises `RuntimeError` as the engine does."""
        connection = chdb.connect(self.directory)
        try:
            if database := asked.get("database", self.headers.get("X-ClickHouse-Database", "")):
                connection.query(f"USE `{database}`")
            for name, value in asked.items():
                if not _OF_THE_INTERFACE.fullmatch(name):
                    connection.query(f"SET {name} = '{value}'")
            parameters = {name[6:]: value for name, value in asked.items() if name.startswith("param_")}
            if "distributed_foreground_insert" in asked or b"ON CLUSTER" in statement:
                head, rows = _split(statement)
                statement = _on_one_server(connection, head, parameters).encode() + rows
            if insert := _INSERT.match(statement):
                return self._insert(connection, insert, statement[insert.end() :]), None
            form = _FORMAT.search(statement)
            spelt = form[1].decode() if form else asked.get("default_format", "TabSeparated")
            result = connection.query(statement.decode(), spelt, params=parameters)
            return result.bytes() or b"", spelt if _ANSWERS_ROWS.match(statement) else None
        finally:
            connection.close()

    @staticmethod
    def _insert(connection: Any, insert: re.Match[bytes], rows: bytes) -> bytes:
        if insert[2].upper() == b"VALUES":
            connection.query((insert[0] + rows).decode())
            return b""
        with tempfile.NamedTemporaryFile(suffix=".rows") as file:
            file.write(rows)
            file.flush()
            connection.query(f"{insert[1].decode()} FROM INFILE '{file.name}' FORMAT {insert[2].decode()}")
        return b""

    def _fail(self, message: str) -> None:
        message = message[max(message.find("Code: "), 0) :]
        found = re.match(r"Code: (\d+)", message)
        code = found[1] if found else "1002"
        self._answer(_STATUS.get(code, 500), message.encode(), code=code)

    def _answer(
        self, status: int, body: bytes, *, compress: bool = False, form: str | None = None, code: str | None = None
    ) -> None:
        accepted = [name.strip() for name in self.headers.get("Accept-Encoding", "").split(",")] if compress else []
        encoding = next((name for name in _ENCODERS if name in accepted), None)
        headers = {
            "X-ClickHouse-Query-Id": str(uuid.uuid4()),
            "X-ClickHouse-Timezone": "UTC",
            "X-ClickHouse-Summary": "{}",
            "X-ClickHouse-Format": form,
            "X-ClickHouse-Exception-Code": code,
            "Content-Encoding": encoding,
        }
        body = _ENCODERS[encoding](body) if encoding else body
        self.send_response(status)
        for name, value in headers.items():
            if value is not None:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


def _split(statement: bytes) -> tuple[str, bytes]:
    """An insert and its rows; any other statement, and nothing."""
    insert = _INSERT.match(statement)
    end = insert.end() if insert else len(statement)
    return statement[:end].decode(), statement[end:]


def _on_one_server(connection: Any, statement: str, parameters: Mapping[str, str]) -> str:
    """What a single server does instead of a cluster."""
    into = _INTO.match(statement)
    if into is not None:
        is_spread = b"1" in connection.query(f"EXISTS TABLE {into[1]}_local").bytes()
        return statement.replace(into[1], f"{into[1]}_local", 1) if is_spread else statement
    if "ON CLUSTER" in statement:
        connection.query(
            f"EXPLAIN AST {statement}", params=parameters
        )  # the engine understands what a cluster would be sent
    for pattern, plain in _OF_A_CLUSTER:
        statement = pattern.sub(plain, statement)
    return statement


def _form(content_type: str, body: bytes) -> dict[str, str]:
    message = BytesParser().parsebytes(b"Content-Type: " + content_type.encode() + b"\r\n\r\n" + body)
    fields = {}
    for part in message.get_payload():
        name = part.get_param("name", header="content-disposition")  # type: ignore[union-attr]
        fields[str(name)] = part.get_payload(decode=True).decode()  # type: ignore[union-attr]
    return fields


def main(directory: Path, port: int = 0) -> None:
    Handler.directory, Handler.faults = str(directory), Faults()
    keep_standard_input()
    kept_open = chdb.connect(str(directory))  # to start the engine takes longer than most statements
    server = Server(("127.0.0.1", port), Handler)
    print(server.server_address[1], flush=True)  # noqa: T201 - what its starter reads
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdin.read()
    server.shutdown()
    kept_open.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
