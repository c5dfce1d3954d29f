"""Several processes that serve at one socket: started, watched, replaced one after another, and ended."""

import math
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import structlog

from kilowatch.config import Settings
from kilowatch.errors import Invalid

log = structlog.get_logger("kilowatch.workers")

_LOOK_EVERY_S = 0.1
_READY_WITHIN_S = 120
"""Of one that replaces another. The first may take as long as its migrations do."""

_END_WITHIN_S = 45
"""A worker lets the requests that it has go on for 30 s; see `cli.web`."""

_STEADY_AFTER_S = 30
_LONGEST_WAIT_S = 30
_BACKLOG = 2048
_READY = b"ready"


def can_have_workers(settings: Settings) -> bool:
    """Whether both stores are servers, which alone several processes can share, and be it for a moment."""
    return not _what_is_no_server(settings)


def refuse_workers(settings: Settings) -> None:
    """Raises `Invalid` where both stores are not servers."""
    if wrong := _what_is_no_server(settings):
        raise Invalid(f"More than one worker needs servers for both stores: {'; '.join(wrong)}. Or use --workers 1.")


def _what_is_no_server(settings: Settings) -> list[str]:
    wrong = []
    if settings.resolved_database_url.startswith("sqlite"):
        wrong.append("KILOWATCH_DATABASE_URL names no PostgreSQL (postgresql+psycopg://…), by which they take turns")
    if settings.resolved_history_url.startswith("chdb"):
        wrong.append(
            "KILOWATCH_HISTORY_URL names no ClickHouse server (clickhouse://…), and the embedded history belongs to "
            "one process"
        )
    return wrong


def release_signals() -> None:
    """Let those come that waited while the program started: see `__main__`."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP, signal.SIGTERM})


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
        if not self.is_ready:
            with suppress(OSError):  # nothing was said yet
                self.is_ready = self.lifeline.recv(16, socket.MSG_DONTWAIT) == _READY

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
        if not self._becomes_ready(first, within_s=math.inf):
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
            try:
                self._workers.append(self._start())
            except OSError as error:  # no memory, no processes, no files: the others go on
                self._start_later()
                log.error("a worker can't be started", reason=error.strerror, started_again_in_s=self._wait_s())

    def _note_end(self, worker: _Worker) -> None:
        if worker.is_ready and time.monotonic() - worker.started_at > _STEADY_AFTER_S:
            self._failures = -1
        self._start_later()
        code, wait_s = worker.process.returncode, self._wait_s()
        log.error("a worker ended", pid=worker.process.pid, code=code, started_again_in_s=wait_s)

    def _start_later(self) -> None:
        self._failures += 1
        self._start_again_at = time.monotonic() + self._wait_s()

    def _wait_s(self) -> int:
        return int(min(2 ** (self._failures - 1), _LONGEST_WAIT_S)) if self._failures > 1 else 0

    def _replace_all(self) -> None:
        for old in list(self._workers):
            try:
                new = self._start()
            except OSError as error:
                log.error("no new worker can be started; the others stay as they are", reason=error.strerror)
                return
            self._workers.append(new)
            if not self._becomes_ready(new, within_s=_READY_WITHIN_S):
                self._workers.remove(new)
                self._end(new)
                log.error("a new worker does not get ready; the others stay as they are", pid=new.process.pid)
                return
            self._failures = 0
            self._retire(old)
            log.info("a worker was replaced", old=old.process.pid, new=new.process.pid)

    def _retire(self, worker: _Worker) -> None:
        """As `_end`, but an end of all is heeded meanwhile."""
        worker.process.send_signal(signal.SIGTERM)
        until = time.monotonic() + _END_WITHIN_S
        while not worker.has_ended and time.monotonic() < until:
            self._pause()
        self._workers.remove(worker)
        self._end(worker)

    # ── one worker ──

    def _start(self) -> _Worker:
        ours, theirs = socket.socketpair()
        descriptors = self._listener.fileno(), theirs.fileno()
        # Where a link leads to now, so that what a worker loads later is of the version that it began with.
        python = Path(sys.executable)
        command = [str(python.parent.resolve() / python.name), "-m", "kilowatch", "worker", *map(str, descriptors)]
        with theirs:
            try:
                # In a session of its own: what a terminal signals is for this process, which tells its workers.
                process = subprocess.Popen(  # noqa: S603 - our own program
                    command, pass_fds=descriptors, env=self._environment, start_new_session=True
                )
            except BaseException:
                ours.close()
                raise
        return _Worker(process, ours, time.monotonic())

    def _becomes_ready(self, worker: _Worker, *, within_s: float) -> bool:
        until = time.monotonic() + within_s
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
        release_signals()
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
