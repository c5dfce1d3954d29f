"""The instrument that speed is measured with: that it runs, and that its parts count right. No speeds are checked."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from benchmarks import readings, report
from benchmarks.bench import named
from benchmarks.driver import Answer, Outcome
from benchmarks.readings import MINUTE_MS, Metric
from benchmarks.scale import SCALES
from benchmarks.server import uncovered
from benchmarks.works import WORKS, Figure, Target

ROOT = Path(__file__).parents[1]
METRICS = [Metric(7, "home/roof/power"), Metric(8, "home/meter/power")]
START = 1_767_225_600_000  # 2026-01-01


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the whole of it writes, with hardly any data."""
    directory = tmp_path_factory.mktemp("bench")
    wanted = ["--scale", "tiny", "--json", str(directory / "figures.json"), "--directory", str(directory)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", *wanted, "--markdown", str(directory / "figures.md")],
        cwd=ROOT,
        env=os.environ | {"KILOWATCH_HISTORY_URL": "chdb:///somebody/elses"},  # which it must not touch
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    document: dict[str, Any] = json.loads((directory / "figures.json").read_text())
    document["markdown"] = (directory / "figures.md").read_text()
    return document


class TestBench:
    def test_measures_every_work_once(self, document: dict[str, Any]) -> None:
        assert sorted(figure["key"] for figure in document["figures"]) == sorted(WORKS)

    def test_has_times_for_each_work(self, document: dict[str, Any]) -> None:
        for figure in document["figures"]:
            assert 0 < figure["p50_ms"] <= figure["p99_ms"], figure

    def test_compares_with_the_floor_wherever_there_is_one(self, document: dict[str, Any]) -> None:
        for figure in document["figures"]:
            if WORKS[figure["key"]].floor is not None:
                assert figure["floor"] > 0
                assert figure["ratio"] > 0, figure

    def test_judges_no_target_on_less_data_than_it_is_for(self, document: dict[str, Any]) -> None:
        assert {figure["met"] for figure in document["figures"]} == {None}

    def test_names_the_machine_and_the_commit(self, document: dict[str, Any]) -> None:
        assert document["machine"].keys() >= {"cpu", "cores", "memory_gb", "python", "engine", "commit", "file_system"}
        assert document["machine"]["engine"] != ""

    def test_writes_a_row_of_markdown_a_work(self, document: dict[str, Any]) -> None:
        assert document["markdown"].count("\n| ") == len(WORKS) + 1


class TestWorks:
    def test_can_be_named_by_patterns(self) -> None:
        assert named("day_*,page") == ["day_cold", "day_hot", "page", "day_while_ingest"]

    def test_meet_their_target_only_if_all_of_it_holds(self) -> None:
        target = Target(rate=1_500, p99_ms=100)
        assert target.holds(rate=1_600, p50_ms=20, p99_ms=99)
        assert not target.holds(rate=1_400, p50_ms=20, p99_ms=99)
        assert not target.holds(rate=1_600, p50_ms=20, p99_ms=101)


class TestReadings:
    def test_move_forward_without_a_gap(self) -> None:
        given = list(readings.blocks(METRICS, START, readings=25, size=20))
        times = np.concatenate([block.timestamps for block in given])
        assert [len(block) for block in given] == [20, 20, 10]
        assert times.tolist() == [START + n * MINUTE_MS for n in range(25)]

    def test_are_the_same_in_every_format(self) -> None:
        block = next(readings.blocks(METRICS, START, readings=3))
        table = pa.ipc.open_stream(readings.arrow_body(block)).read_all()
        series = json.loads(readings.columns_body(block))["series"]
        rows = json.loads(readings.rows_body(block))["readings"]
        assert table["value"].to_pylist() == [value for one in series for value in one["values"]]
        assert sorted((row["metric_id"], row["timestamp"], row["value"]) for row in rows) == [
            (one["metric_id"], *pair) for one in series for pair in zip(one["timestamps"], one["values"], strict=True)
        ]
        assert len(readings.csv_body(block).splitlines()) == 1 + len(readings.lines_body(block).splitlines()) == 7

    def test_moved_are_those_of_later(self) -> None:
        block = next(readings.blocks(METRICS, START, readings=3))
        later = pa.ipc.open_stream(readings.Moving(block).later(MINUTE_MS)).read_all()
        now = pa.ipc.open_stream(readings.arrow_body(block)).read_all()
        moved = np.array(later["timestamp"], "int64") - np.array(now["timestamp"], "int64")
        assert moved.tolist() == [MINUTE_MS] * 6
        assert later["value"] == now["value"]


class TestAnswer:
    @pytest.mark.parametrize(
        ("head", "body"),
        [
            (b"content-length: 11", b"hello world"),
            (b"Transfer-Encoding: chunked", b"6\r\nhello \r\n5;x=y\r\nworld\r\n0\r\n\r\n"),
        ],
    )
    def test_ends_with_its_last_byte_however_it_comes(self, head: bytes, body: bytes) -> None:
        text = b"HTTP/1.1 200 OK\r\nserver: x\r\n" + head + b"\r\n\r\n" + body
        for size in (1, 2, 7, len(text)):
            answer = Answer()
            pieces = [text[at : at + size] for at in range(0, len(text), size)]
            assert [answer.feed(piece) for piece in pieces] == [False] * (len(pieces) - 1) + [True]
            assert answer.status == 200
            assert answer.start.replace(b"\r\n", b"") == b"hello world"

    def test_may_have_no_body(self) -> None:
        answer = Answer()
        assert answer.feed(b"HTTP/1.1 204 No Content\r\n\r\n")
        assert answer.status == 204


class TestOutcome:
    def test_percentiles_are_latencies_that_were_seen(self) -> None:
        outcome = Outcome(latencies=[n / 1000 for n in range(100, 0, -1)])
        assert (outcome.percentile_ms(0.5), outcome.percentile_ms(0.99)) == (51, 100)


class TestActiveParts:
    def test_are_those_that_no_later_part_replaces(self) -> None:
        assert uncovered([(1, 1, 0), (2, 2, 0), (3, 3, 0), (1, 3, 1), (4, 4, 0)]) == 2
        assert uncovered([(1, 3, 1), (1, 3, 2)]) == 1
        assert uncovered([]) == 0


class TestBaseline:
    def test_marks_what_got_slower_by_more_than_the_tolerance(self, tmp_path: Path) -> None:
        path = tmp_path / "baseline.json"
        self.write(path, day_hot=1.0, day_cold=2.0, page=3.0)
        figures = [self.figure("day_hot", 1.4), self.figure("day_cold", 3.1), self.figure("year_json_cold", 9.0)]
        lines, worse = report.compare(figures, report.read_baseline(path), scale="full")
        assert worse == ["day_cold"]
        assert any("year_json_cold" in line and "new" in line for line in lines)
        assert lines[-1] == "  not measured: page"

    def test_keeps_what_was_not_measured_again(self, tmp_path: Path) -> None:
        path = tmp_path / "baseline.json"
        self.write(path, day_hot=1.0, page=3.0)
        self.write(path, page=2.0)
        assert report.read_baseline(path)["full"]["ratios"] == {"day_hot": 1.0, "page": 2.0}

    def test_of_another_scale_says_nothing(self) -> None:
        lines, worse = report.compare([self.figure("page", 9.0)], {}, scale="quick")
        assert worse == []
        assert "no figures of the scale `quick`" in lines[0]

    def test_that_is_committed_is_of_works_and_scales_that_there_are(self) -> None:
        baseline = report.read_baseline(report.BASELINE)
        assert baseline.keys() <= SCALES.keys()
        for of_scale in baseline.values():
            assert of_scale["ratios"].keys() <= WORKS.keys()

    def write(self, path: Path, **ratios: float) -> None:
        figures = [self.figure(key, ratio) for key, ratio in ratios.items()]
        report.write_baseline(path, figures, scale="full", about={"commit": "abc", "cpu": "some"})

    def figure(self, key: str, ratio: float) -> Figure:
        return Figure(key, "some work", "requests/s", ratio=ratio)
