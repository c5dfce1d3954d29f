"""Every worked example of the user guide's "What an interval means", run as it stands there."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from kilowatch.kit.timespan import from_ms
from tests.history.conftest import Recorder, column, ms

PAGE = Path(__file__).parents[2] / "docs" / "concepts.md"
METRIC = re.compile(r"(?P<behaviour>gauge|counter) (?P<unit>\w+), max_gap_s (?P<gap>null|\d+): (?P<readings>.+)")
QUESTION = re.compile(
    r"(?P<what>\w+) (?P<start>\S+) to (?P<end>\S+), (?P<resolution>\w+)"
    r"(, (?P<zone>[A-Z][\w/]+))?(, now (?P<now>\S+))?: (?P<answer>.+)"
)
VALUE = re.compile(r"(\S+) \((\S+)\)")


def instant(text: str) -> int:
    return ms(f"2026-01-05T{text}" if re.fullmatch(r"\d\d:\d\d", text) else text)


def examples() -> Iterator[tuple[str, str]]:
    """Each question with the line of its metric."""
    metric = ""
    for block in re.findall(r"^```example\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE):
        for line in block.splitlines():
            if METRIC.fullmatch(line):
                metric = line
            else:
                yield metric, line


def answer(recorder: Recorder, metric: str, question: dict[str, str | None]) -> Any:
    said = METRIC.fullmatch(metric)
    assert said is not None
    made = recorder.metric(
        behaviour=said["behaviour"],
        quantity="power" if said["behaviour"] == "gauge" else "energy",
        unit=said["unit"],
        max_gap_s=None if said["gap"] == "null" else int(said["gap"]),
    )
    readings = [reading.split() for reading in said["readings"].split(" | ")]
    recorder.append((made, [(instant(at), float(value)) for at, value in readings]))
    return recorder.ask(
        made,
        start=instant(question["start"] or ""),
        end=instant(question["end"] or ""),
        now=instant(question["now"]) if question["now"] else None,
        resolution=question["resolution"],
        timezone=question["zone"],
        aggregate=None if question["what"] == "labels" else question["what"],
    ).series[0]


@pytest.mark.parametrize(("metric", "line"), list(examples()))
def test_the_guide_s_example(recorder: Recorder, metric: str, line: str) -> None:
    question = QUESTION.fullmatch(line)
    assert question is not None, f"not understood: {line}"
    series = answer(recorder, metric, question.groupdict())
    told = question["answer"].split(" | ")
    if question["what"] == "labels":
        zone = ZoneInfo(question["zone"])
        labels = [from_ms(at).astimezone(zone).isoformat() for at in series.timestamps.tolist()]
        short = [label[:10] if question["resolution"] == "1d" else label[11:16] + label[19:] for label in labels]
        assert short == told
        return
    expected = [VALUE.fullmatch(bucket) for bucket in told]
    assert [
        ("null" if value is None else f"{value:g}", f"{share:.3g}")
        for value, share in zip(column(series.values), series.coverage.tolist(), strict=True)
    ] == [match.groups() for match in expected if match]


def test_the_guide_has_one_for_every_aggregate() -> None:
    """So that a page that was rewritten can't leave this test with nothing to run."""
    told = {line.split()[0] for _, line in examples()}
    assert told >= {"labels", "mean", "energy", "energy_positive", "energy_negative", "delta"}
    assert told >= {"min", "max", "first", "last", "sum", "count"}
