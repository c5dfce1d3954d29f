"""Figures as a table, as JSON, as Markdown, and against the baseline."""

import json
import os
import platform
import re
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.works import INGEST, Figure

BASELINE = Path(__file__).with_name("baseline.json")
TOLERANCE = 1.5
_NONE = "-"
_QUIET_CORES = 0.2
_HEAD = f"{'work':84} {'rate /s':>11} {'p50 ms':>9} {'p99 ms':>9}  {'target':44} {'met':4} {'floor':>11} {'ratio':>7}"


def machine(directory: Path, engine: str) -> dict[str, Any]:
    """Where and of what the figures are."""
    return {
        "cpu": _found(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo")) or platform.processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gb": round(int(_found(r"^MemTotal:\s+(\d+)", Path("/proc/meminfo")) or 0) / 2**20),
        "file_system": _file_system(directory),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "engine": engine,
        "commit": _commit(),
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "load_before": [round(load, 1) for load in os.getloadavg()],
    }


def _found(pattern: str, path: Path) -> str:
    match = re.search(pattern, path.read_text(), re.MULTILINE) if path.exists() else None
    return match[1] if match else ""


def _file_system(directory: Path) -> str:
    """Its type: what is called durable is worth what the disk below is."""
    mounts = Path("/proc/self/mounts")
    if not mounts.exists():
        return ""
    places = [line.split()[1:3] for line in mounts.read_text().splitlines()]
    below = [(len(place), kind) for place, kind in places if directory.resolve().is_relative_to(place)]
    return max(below)[1] if below else ""


def _commit() -> str:
    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], capture_output=True, text=True, check=False, cwd=Path(__file__).parent
        ).stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no", "--", "../src")
    return git("rev-parse", "--short", "HEAD") + ("+changes" if changed else "")


def title(about: Mapping[str, Any], scale: str) -> str:
    return (
        f"{about['cpu']}, {about['cores']} cores, {about['memory_gb']} GB, {about['file_system']}, {about['system']}; "
        f"Python {about['python']}, engine {about['engine']}; commit {about['commit']}; scale {scale}; "
        f"load before {about['load_before'][0]}"
    )


def head() -> str:
    return _HEAD


def line(figure: Figure) -> str:
    """A line of the table."""
    note = f"\n    {figure.note}" if figure.note else ""
    return (
        f"{figure.work:84} {_rate(figure):>11} {_ms(figure.p50_ms):>9} {_ms(figure.p99_ms):>9}  "
        f"{figure.target:44} {_met(figure):4} {_floor(figure):>11} {_ratio(figure):>7}{note}"
    )


def markdown(about: Mapping[str, Any], figures: Sequence[Figure], scale: str) -> str:
    """The table of docs/performance.md."""
    lines = [
        f"{title(about, scale)}.",
        "",
        "| work | rate /s | p50 ms | p99 ms | to reach | reached | ratio to the floor |",
        "|---|--:|--:|--:|---|---|--:|",
    ]
    lines += [
        f"| {figure.work}{f' ({figure.note})' if figure.note else ''} | {_rate(figure)} | {_ms(figure.p50_ms)} "
        f"| {_ms(figure.p99_ms)} | {figure.target} | {_met(figure)} | {_ratio(figure)} |"
        for figure in figures
    ]
    return "\n".join(lines) + "\n"


def _rate(figure: Figure) -> str:
    if figure.rate is None or (figure.unit != INGEST and figure.more.get("requests", 0) < 30):
        return _NONE
    return f"{figure.rate:,.0f}"


def _ms(value: float | None) -> str:
    return _NONE if value is None else f"{value:,.1f}"


def _met(figure: Figure) -> str:
    return {True: "yes", False: "NO", None: _NONE}[figure.met]


def _floor(figure: Figure) -> str:
    return _NONE if figure.floor is None else f"{figure.floor:,.0f}" if figure.floor > 1000 else f"{figure.floor:,.1f}"


def _ratio(figure: Figure) -> str:
    return _NONE if figure.ratio is None else f"{figure.ratio:.2f}"


# ── the baseline ─────────────────────────────────────────────────────────────────────────────────────────────────────


def others(figures: Sequence[Figure]) -> str:
    """What to think of the figures if the machine had other work too."""
    average = _other_cores(figures)
    verdict = (
        "." if average < _QUIET_CORES else ": THE MACHINE WAS NOT QUIET, and the figures are worse than they should be."
    )
    return f"Other processes had {average:.2f} cores on average{verdict}"


def _other_cores(figures: Sequence[Figure]) -> float:
    cores = [figure.more["other_cores"] for figure in figures if "other_cores" in figure.more]
    return sum(cores) / len(cores) if cores else 0.0


def ratios(figures: Sequence[Figure]) -> dict[str, float]:
    return {figure.key: round(figure.ratio, 3) for figure in figures if figure.ratio is not None}


def write_baseline(path: Path, figures: Sequence[Figure], *, scale: str, about: Mapping[str, Any]) -> None:
    """Put these ratios in place of those of the same scale; of works that were not measured the old ones stay."""
    kept = read_baseline(path)
    known = kept.get(scale, {}).get("ratios", {})
    kept[scale] = {
        "commit": about["commit"],
        "cpu": about["cpu"],
        "other_cores": round(_other_cores(figures), 2),
        "ratios": dict(sorted((known | ratios(figures)).items())),
    }
    path.write_text(json.dumps(kept, indent=1) + "\n")


def read_baseline(path: Path) -> dict[str, Any]:
    baseline: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return baseline


def compare(
    figures: Sequence[Figure], baseline: Mapping[str, Any], *, scale: str, tolerance: float = TOLERANCE
) -> tuple[list[str], list[str]]:
    """The ratios beside the baseline's as lines, and the keys of those that are worse by more than `tolerance`."""
    if scale not in baseline:
        return [f"The baseline has no figures of the scale `{scale}`."], []
    before = baseline[scale]["ratios"]
    lines = [f"Against the baseline of commit {baseline[scale]['commit']} (ratios to the floor; lower is better):"]
    worse = []
    for key, ratio in ratios(figures).items():
        if key not in before:
            lines.append(f"  {key:20} {ratio:8.2f}  new")
            continue
        change = ratio / before[key]
        verdict = "REGRESSION" if change > tolerance else "better" if change < 1 / tolerance else ""
        lines.append(f"  {key:20} {ratio:8.2f}  was {before[key]:8.2f}  × {change:.2f}  {verdict}".rstrip())
        worse += [key] if change > tolerance else []
    lost = sorted(set(before) - {figure.key for figure in figures})
    lines += [f"  not measured: {', '.join(lost)}"] if lost else []
    return lines, worse
