"""Several processes that serve at one socket: started, watched, replaced one after another, and ended."""

import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import structlog

from kilowatch.config import Settings
from kilowatch.errors import Invalid

log = structlog.get_logger("kilowatch.workers")

_LOOK_EVERY_S = 0.1
_READY_WITHIN_S = 120
_END_WITHIN_S = 45
"""A worker lets the requests that it has go on for 30 s; see `cli.web`."""

_STEADY_AFTER_S = 30
_LONGEST_WAIT_S = 30
_BACKLOG = 2048
_READY = b"ready"


def refuse_workers(settings: Settings) -> None:
    """Raises `Invalid` where both stores are not servers, which alone several processes can share."""
    wrong = []
    if settings.resolved_database_url.startswith("sqlite"):
        wrong.append("KILOWATCH_DATABASE_URL names no PostgreSQL (postgresql+psycopg://…), by which they take turns")
    if settings.resolved_history_url.startswith("chdb"):
        wrong.append(
            "KILOWATCH_HISTORY_URL names no ClickHouse server (clickhouse://…), and the embedded history belongs to "
            "one process"
        )
    if wrong:
        raise Invalid(f"More than one worker needs servers for both stores: {'; '.join(wrong)}. Or use --workers 1.")


@contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """A socket that children can accept from. Connections wait in it while no child is there."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError as error:
            raise Invalid(
                f"Can't listen on {host}:{port} ({error.strerror}); choose another with --port, or stop what is there."
            ) from error
        listener.listen(_BACKLOG)
        listener.set_inheritable(True)
        yield listener


class Lifeline:
    """What a worker has of the process that started it: says that it is ready, and notices that the other has gone."""

    def __init__(self, descriptor: int) -> None:
        self._socket = socket.socket(fileno=descriptor)

    def say_ready(self) -> None:
        with suppress(OSError):
            self._socket.send(_READY)

    def wait_for_end(self) -> None:
        """Return once the other end is closed, by whatever ended it."""
        with suppress(OSError):
            while self._socket.recv(16):
                pass


@dataclass
class _Worker:
    process: "subprocess.Popen[bytes]"
    lifeline: socket.socket
    started_at: float
    is_ready: bool = False

    def look(self) -> None:
        """Note whether it has become ready."""
        if not self.is_ready and select.select([self.lifeline], [], [], 0)[0]:
            with suppress(OSError):
                self.is_ready = self.lifeline.recv(16) == _READY

    @property
    def has_ended(self) -> bool:
        return self.process.poll() is not None

    def close(self) -> None:
        self.lifeline.close()


class _Stopped(Exception):
    """Somebody asked for the end of all."""


class Workers:
    """A number of worker processes. One that ends is started again, after ever longer waits if it can't start.

    SIGHUP replaces them one after another, each when its successor is ready: no request is lost, and what is installed
    by then is what they run. SIGTERM and SIGINT end them.
    """

    def __init__(
        self,
        number: int,
        listener: socket.socket,
        *,
        started: Callable[[], None],
        environment: Mapping[str, str],
        ended: Callable[[int], None],
    ) -> None:
        """
        Args:
            started: is called once, when the first worker is ready.
            environment: what workers have besides our own.
            ended: is given the process id of each worker once it has ended.
        """
        self._number, self._listener, self._say_started = number, listener, started
        self._environment, self._say_ended = {**os.environ, **environment}, ended
        self._workers: list[_Worker] = []
        self._failures = 0
        self._start_again_at = 0.0
        self._is_stopping = self._is_to_be_replaced = False

    def run(self) -> None:
        """Serve until a signal says otherwise. Raises `SystemExit` if the first worker can't start."""
        with self._handling_signals():
            try:
                self._start_first()
                while True:
                    self._pause()
                    self._tend()
                    if self._is_to_be_replaced:
                        self._is_to_be_replaced = False
                        self._replace_all()
            except _Stopped:
                pass
            finally:
                self._end(*self._workers)

    # ── one look after another ──

    def _pause(self) -> None:
        time.sleep(_LOOK_EVERY_S)
        if self._is_stopping:
            raise _Stopped

    def _start_first(self) -> None:
        """One alone, so that it migrates the stores, and a setting that can't be used ends all at once."""
        first = self._start()
        self._workers.append(first)
        if not self._becomes_ready(first):
            raise SystemExit(1)
        self._say_started()

    def _tend(self) -> None:
        """Start who is missing, and take note of who has ended."""
        for worker in list(self._workers):
            worker.look()
            if worker.has_ended:
                self._workers.remove(worker)
                self._close(worker)
                self._note_end(worker)
        if len(self._workers) < self._number and time.monotonic() >= self._start_again_at:
            self._workers.append(self._start())

    def _note_end(self, worker: _Worker) -> None:
        lived_s = time.monotonic() - worker.started_at
        self._failures = 0 if worker.is_ready and lived_s > _STEADY_AFTER_S else self._failures + 1
        wait_s = min(2 ** (self._failures - 1), _LONGEST_WAIT_S) if self._failures > 1 else 0
        self._start_again_at = time.monotonic() + wait_s
        log.error("a worker ended", pid=worker.process.pid, code=worker.process.returncode, started_again_in_s=wait_s)

    def _replace_all(self) -> None:
        for old in list(self._workers):
            new = self._start()
            self._workers.append(new)
            if not self._becomes_ready(new):
                self._workers.remove(new)
                self._end(new)
                log.error("a new worker does not get ready; the others stay as they are", pid=new.process.pid)
                return
            if old in self._workers:
                self._workers.remove(old)
                self._end(old)
            log.info("a worker was replaced", old=old.process.pid, new=new.process.pid)

    # ── one worker ──

    def _start(self) -> _Worker:
        ours, theirs = socket.socketpair()
        descriptors = self._listener.fileno(), theirs.fileno()
        command = [sys.executable, "-m", "kilowatch", "worker", *map(str, descriptors)]
        with theirs:
            process = subprocess.Popen(command, pass_fds=descriptors, env=self._environment)  # noqa: S603 - our own program
        return _Worker(process, ours, time.monotonic())

    def _becomes_ready(self, worker: _Worker) -> bool:
        until = time.monotonic() + _READY_WITHIN_S
        while not worker.is_ready and not worker.has_ended and time.monotonic() < until:
            self._pause()
            worker.look()
        return worker.is_ready and not worker.has_ended

    def _end(self, *workers: _Worker) -> None:
        """Ask them to end, and wait until they have."""
        for worker in workers:
            worker.process.send_signal(signal.SIGTERM)
        until = time.monotonic() + _END_WITHIN_S
        for worker in workers:
            try:
                worker.process.wait(max(until - time.monotonic(), 0))
            except subprocess.TimeoutExpired:
                log.error("a worker does not end; it is killed", pid=worker.process.pid)
                worker.process.kill()
                worker.process.wait()
            self._close(worker)

    def _close(self, worker: _Worker) -> None:
        worker.close()
        self._say_ended(worker.process.pid)

    # ── signals ──

    @contextmanager
    def _handling_signals(self) -> Iterator[None]:
        handlers = {
            number: signal.signal(number, handler)
            for number, handler in (
                (signal.SIGTERM, self._stop),
                (signal.SIGINT, self._stop),
                (signal.SIGHUP, self._replace),
            )
        }
        try:
            yield
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)

    def _stop(self, *_: object) -> None:
        self._is_stopping = True

    def _replace(self, *_: object) -> None:
        self._is_to_be_replaced = True


def end_with(lifeline: Lifeline) -> None:
    """End this worker, in order, when the process that started it is gone."""
    lifeline.wait_for_end()
    os.kill(os.getpid(), signal.SIGTERM)
