"""Measure a Kilowatch server of our own over HTTP, and the engine alone as the floor. docs/performance.md tells more.

make bench                          all of it, about eight minutes
make bench ARGS=--quick             less data, under two minutes; no targets
make bench ARGS="--only 'day_*,page'"    some of it (names are the keys of benchmarks/works.py)
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks import portfolio, report
from benchmarks.bench import Bench, Floors, named
from benchmarks.progress import Progress
from benchmarks.scale import SCALES, Scale
from benchmarks.server import Server
from benchmarks.works import WORKS, Figure

_ROOT = Path(__file__).parents[1]


def main(arguments: list[str] | None = None) -> int:
    given = _arguments(arguments)
    scale = SCALES["quick" if given.quick else given.scale]
    began = time.monotonic()
    with _directory(given.directory) as directory:
        floors, engine = ({}, "not asked") if given.no_floors else _floors(directory / "floor", scale)
        about = report.machine(directory, engine)
        print(f"{report.title(about, scale.name)}\n\n{report.head()}", flush=True)
        figures = _measure(directory / "server", scale, floors=floors, only=given.only)
    print(f"\n{time.monotonic() - began:.0f} s. {report.others(figures)}\n")
    return _conclude(given, scale, about, floors, figures)


def _arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="make bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="the scale `quick`")
    parser.add_argument("--scale", choices=SCALES, default="full")
    parser.add_argument("--only", default="*", metavar="PATTERNS", help="works to measure, such as 'day_*,page'")
    parser.add_argument("--no-floors", action="store_true", help="without the engine alone: no ratios")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="also write the table there")
    parser.add_argument("--baseline", type=Path, default=report.BASELINE, metavar="FILE", help=argparse.SUPPRESS)
    parser.add_argument("--write-baseline", action="store_true", help="make these ratios the baseline")
    parser.add_argument(
        "--tolerance", type=float, default=report.TOLERANCE, help="a regression is worse by this factor"
    )
    parser.add_argument("--check", action="store_true", help="end with status 1 if there is a regression")
    parser.add_argument(
        "--directory",
        type=Path,
        default=_ROOT / "var",
        help="where the data is while it runs: a disk that is measured too",
    )
    given = parser.parse_args(arguments)
    if not named(given.only):
        parser.error(f"--only: no work is named {given.only!r}; there are {', '.join(WORKS)}")
    return given


@contextmanager
def _directory(parent: Path) -> Iterator[Path]:
    """An empty directory that is gone afterwards."""
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=parent, ignore_cleanup_errors=True) as directory:
        yield Path(directory)


def _floors(directory: Path, scale: Scale) -> tuple[Floors, str]:
    """What the engine alone takes, and its version."""
    command = [sys.executable, "-m", "benchmarks.floor", str(directory), scale.name]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, cwd=_ROOT)
    answer = json.loads(done.stdout.splitlines()[-1])
    shutil.rmtree(directory)
    os.sync()  # nothing of it is written while the server is measured
    return answer["floors"], answer["engine"]


def _measure(directory: Path, scale: Scale, *, floors: Floors, only: str) -> list[Figure]:
    with Progress("sites, devices, users"):
        made = portfolio.make(directory, scale)
    server = Server(directory)
    bench = Bench(
        server, made, scale, floors=floors, only=only, report=lambda figure: print(report.line(figure), flush=True)
    )
    try:
        bench.run()
    finally:
        server.stop()
    return bench.figures


def _conclude(
    given: argparse.Namespace, scale: Scale, about: dict[str, Any], floors: Floors, figures: list[Figure]
) -> int:
    lines, worse = report.compare(
        figures, report.read_baseline(given.baseline), scale=scale.name, tolerance=given.tolerance
    )
    print("\n".join(lines))
    if given.json:
        document = {"machine": about, "scale": scale.name, "figures": [figure.to_dict() for figure in figures]}
        given.json.write_text(json.dumps(document | {"floors": floors, "regressions": worse}, indent=1) + "\n")
    if given.markdown:
        given.markdown.write_text(report.markdown(about, figures, scale.name))
    if given.write_baseline:
        report.write_baseline(given.baseline, figures, scale=scale.name, about=about)
        print(f"Wrote {given.baseline}")
    return 1 if worse and given.check else 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the server and its directory go too
    raise SystemExit(main())
