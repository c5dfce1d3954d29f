"""A Kilowatch server process of its own, and what can be seen of it from outside: memory, CPU, files."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

_PROGRAM = [sys.executable, "-c", "from kilowatch.__main__ import main; main()"]
_START_WITHIN_S = 60
_PART = re.compile(r"^(?P<partition>[0-9]+|all)_(?P<first>\d+)_(?P<last>\d+)_(?P<level>\d+)(_\d+)?$")


class Server:
    """`kilowatch serve` on a data directory and a free port of the loopback interface."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port = free_port()
        self._log = directory.with_name(directory.name + ".log")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> float:
        """Start it; the seconds until it took connections."""
        began = time.perf_counter()
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*_PROGRAM, "serve", "--port", str(self.port)],
                env=environment(self.directory),
                stdout=log,
                stderr=log,
            )
        while time.perf_counter() - began < _START_WITHIN_S:
            if self._process.poll() is not None:
                break
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return time.perf_counter() - began
            except OSError:
                time.sleep(0.01)
        raise RuntimeError(f"the server did not start:\n{self._log.read_text()[-2000:]}")

    def stop(self) -> None:
        if self._process is None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def restart(self) -> float:
        self.stop()
        return self.start()

    def settle(self, *, most_s: float) -> None:
        """Wait until it has nothing to do of its own (merges of what was just written), or for so long."""
        deadline = time.monotonic() + most_s
        quiet = 0
        while quiet < 3 and time.monotonic() < deadline:
            before = self.cpu_s()
            time.sleep(0.25)
            quiet = quiet + 1 if self.cpu_s() - before < 0.02 else 0

    def cpu_s(self) -> float:
        """CPU time that it has used."""
        fields = self._proc("stat").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK") if fields else 0.0

    def rss_mb(self) -> float:
        return self._status_mb("VmRSS")

    def peak_mb(self) -> float:
        """The most memory since `forget_peak`."""
        return self._status_mb("VmHWM")

    def forget_peak(self) -> None:
        assert self._process is not None
        Path(f"/proc/{self._process.pid}/clear_refs").write_text("5")

    def _status_mb(self, name: str) -> float:
        found = re.search(rf"^{name}:\s+(\d+) kB", self._proc("status"), re.MULTILINE)
        return int(found[1]) / 1024 if found else 0.0

    def _proc(self, name: str) -> str:
        assert self._process is not None
        try:
            return Path(f"/proc/{self._process.pid}/{name}").read_text()
        except FileNotFoundError:
            return ""

    def active_parts(self) -> int:
        """Parts of the history's tables on the disk, those not counted that a later part replaces."""
        groups: dict[tuple[Path, str], list[tuple[int, int, int]]] = {}
        for path in (self.directory / "history" / "store").glob("*/*/*"):
            if part := _PART.match(path.name):
                block = int(part["first"]), int(part["last"]), int(part["level"])
                groups.setdefault((path.parent, part["partition"]), []).append(block)
        return sum(uncovered(parts) for parts in groups.values())


def uncovered(parts: list[tuple[int, int, int]]) -> int:
    """How many of a partition's parts (first block, last block, level) lie within no other."""
    count, reach = 0, -1
    for _first, last, _level in sorted(parts, key=lambda part: (part[0], -part[1], -part[2])):
        if last > reach:  # begins later, or as early and reaches further, than all before it
            count, reach = count + 1, last
    return count


def machine_cpu_s() -> float:
    """CPU time that all processes of this machine have used; 0 where that can't be known."""
    stat = Path("/proc/stat")
    if not stat.exists():
        return 0.0
    user, nice, system, _idle, _iowait, *interrupts = map(int, stat.read_text().split("\n", 1)[0].split()[1:8])
    return (user + nice + system + sum(interrupts)) / os.sysconf("SC_CLK_TCK")


def environment(directory: Path) -> dict[str, str]:
    """The environment without anyone's settings."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("KILOWATCH_")}
    own = {"KILOWATCH_DATA_DIR": str(directory), "KILOWATCH_LOG_LEVEL": "error", "KILOWATCH_STREAMS_PER_USER": "1000"}
    return kept | own


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
