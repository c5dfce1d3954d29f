"""`kilowatch export`, as a process."""

import os
import shutil
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.cli.conftest import WINDOW, Place, refused
from tests.processes import PROGRAM, environment, kilowatch


class TestExport:
    def test_writes_raw_readings_and_buckets_in_the_asked_unit_and_zone(self, filled: Place) -> None:
        raw = filled.exported("--metric", "north/meter/power", "--metric", filled.counter_id, *WINDOW)
        assert len(raw) == 7200
        assert {row["metric"] for row in raw} == {"north/meter/power", "north/counter/energy"}
        assert float(raw[1]["value"]) == 1 / 3
        (bucket,) = filled.exported(
            *("--metric", "north/counter/energy", "--resolution", "1h", "--unit", "Wh", "--timezone", "Asia/Kolkata"),
            *("--aggregate", "delta", "--start", "2026-01-05T10:00:00Z", "--end", "2026-01-05T10:30:00Z"),
        )
        assert float(bucket["value"]) == pytest.approx(179_900)
        assert bucket["unit"] == "Wh"
        assert bucket["timestamp"].endswith("+05:30")

    def test_of_a_subscription_has_its_owners_rights(self, filled: Place) -> None:
        options = ("--subscription", filled.subscription_id, "--resolution", "1h", *WINDOW)
        assert [row["metric"] for row in filled.exported(*options)] == ["north/meter/power", "north/counter/energy"]
        connection = sqlite3.connect(filled.data_dir / "kilowatch.sqlite")
        with connection:
            connection.execute("DELETE FROM grants")
        connection.close()
        try:
            assert filled.exported(*options) == []
        finally:
            assert filled.run("site", "grant", "north", "reader@example.org", "standard").returncode == 0

    def test_to_a_file_leaves_a_whole_one_or_the_old_one(self, filled: Place, tmp_path: Path) -> None:
        path = tmp_path / "out.csv"
        path.write_text("the old one")
        refused(filled.run("export", "--metric", "a/b/c", *WINDOW, "--output", path), "a/b/c")
        assert path.read_text() == "the old one"
        assert [entry.name for entry in tmp_path.iterdir()] == ["out.csv"]
        done = filled.run("export", "--metric", filled.metric_id, *WINDOW, "--output", path)
        assert done.returncode == 0, done.stderr
        assert done.stdout == ""
        assert len(path.read_text().splitlines()) == 3601
        assert [entry.name for entry in tmp_path.iterdir()] == ["out.csv"]
        refused(filled.run("export", "--metric", 1, *WINDOW, "--output", tmp_path / "no" / "out.csv"), "no/out.csv")

    def test_to_a_pipe_is_written_into_it(self, filled: Place, tmp_path: Path) -> None:
        pipe = tmp_path / "pipe"
        os.mkfifo(pipe)
        command = ("export", "--metric", filled.metric_id, *WINDOW, "--format", "csv", "--output", pipe)
        with ThreadPoolExecutor() as pool:
            run = pool.submit(filled.run, *command)
            text = pipe.read_text()
            assert run.result().returncode == 0, run.result().stderr
        assert len(text.splitlines()) == 3601
        assert pipe.is_fifo()

    def test_to_a_full_standard_output_says_so(self, filled: Place) -> None:
        command = [*PROGRAM, "export", "--metric", str(filled.metric_id), *WINDOW]
        with Path("/dev/full").open("wb") as full:
            done = subprocess.run(
                command, stdout=full, stderr=subprocess.PIPE, text=True, env=environment(filled.data_dir), check=False
            )
        refused(done, "Standard output can't be written")

    def test_refuses_a_name_that_is_no_text(self, filled: Place) -> None:
        refused(filled.run("export", "--metric", os.fsdecode(b"north/\xff"), *WINDOW), "There is no metric")

    @pytest.mark.parametrize("form", ["csv", "csv.gz", "json.zst", "parquet", "arrow"])
    def test_imported_into_an_empty_history_gives_the_same(self, filled: Place, tmp_path: Path, form: str) -> None:
        path = tmp_path / f"round.{form}"
        options = ("--subscription", filled.subscription_id, *WINDOW)
        assert filled.run("export", *options, "--output", path).returncode == 0
        emptied = tmp_path / "var"
        shutil.copytree(filled.data_dir, emptied, ignore=shutil.ignore_patterns("history"))
        done = kilowatch("import", str(path), data_dir=emptied)
        assert (done.returncode, done.stdout) == (0, "7,200 readings stored, 0 refused.\n"), done.stderr
        again = kilowatch("export", *map(str, options), data_dir=emptied)
        assert again.stdout == filled.run("export", *options).stdout
        assert again.stdout.count("\n") == 7201

    def test_of_a_device_a_site_or_all_names_each_metric_once(self, filled: Place) -> None:
        both = ["north/meter/power", "north/counter/energy"]
        hourly = ("--resolution", "1h", *WINDOW)
        for options, expected in (
            (("--metric", "north/counter"), both[1:]),
            (("--metric", "north", "--metric", both[0]), both),
            (("--all",), both),
        ):
            assert [row["metric"] for row in filled.exported(*options, *hourly)] == expected

    @pytest.mark.parametrize(
        ("options", "word"),
        [
            ((*WINDOW,), "--subscription"),
            (("--metric", "1", "--subscription", "1", *WINDOW), "--metric"),
            (("--metric", "1", *WINDOW, "--aggregate", "median"), "--aggregate"),
            (("--metric", "1", *WINDOW, "--resolution", "7m"), "7m"),
            (("--metric", "1", *WINDOW, "--timezone", "Mars/Base"), "Mars/Base"),
            (("--metric", "1", *WINDOW, "--resolution", "1h", "--unit", "degC"), "degC"),
            (("--metric", "9" * 30, *WINDOW), "no metric"),
            (("--subscription", "9" * 30, *WINDOW), "no metric or subscription"),
            (("--all", "--metric", "1", *WINDOW), "--all"),
            (("--metric", "north/nothing", *WINDOW), "north/nothing"),
            (("--metric", "a/b/c/d", *WINDOW), "a/b/c/d"),
            (("--metric", "1", *WINDOW, "--format", "xml"), "xml"),
            (("--metric", "1", *WINDOW, "--output", "out.txt"), "out.txt"),
            (("--metric", "1", *WINDOW, "--output", "out.parquet.gz"), "parquet"),
            (("--metric", "1", *WINDOW, "--output", "a.csv", "--output-dir", "b"), "--output-dir"),
            (("--metric", "1", "--start", "2026-01-05", "--end", "2026-01-06T00:00:00Z"), "offset"),
        ],
    )
    def test_says_what_it_can_not_do(self, place: Place, options: tuple[str, ...], word: str) -> None:
        done = place.run("export", *options)
        refused(done, word)
        assert done.stdout == ""


class TestExportDirectory:
    def test_has_a_file_for_each_metric_and_keeps_those_that_are_complete(self, filled: Place, tmp_path: Path) -> None:
        directory = tmp_path / "out"
        names = ["north.counter.energy.parquet", "north.meter.power.parquet"]

        def export(*options: object) -> "subprocess.CompletedProcess[str]":
            command = ("--all", *WINDOW, "--format", "parquet", "--output-dir", directory)
            return filled.run("export", *command, *options)

        assert export().returncode == 0
        files = [directory / name for name in names]
        assert sorted(directory.iterdir()) == [directory / "kilowatch-export.json", *files]
        assert [pq.read_metadata(file).num_rows for file in files] == [3600, 3600]
        files[0].unlink()
        (directory / (names[0] + ".part")).write_text("half of it")
        kept = files[1].stat()
        done = export()
        assert "Wrote 1 files" in done.stderr
        assert "1 were complete already" in done.stderr
        assert files[1].stat().st_ino == kept.st_ino
        assert sorted(directory.iterdir()) == [directory / "kilowatch-export.json", *files]
        refused(export("--unit", "W"), "another unit", "--restart")
        assert export("--restart").returncode == 0
        assert files[1].stat().st_ino != kept.st_ino or files[1].stat().st_mtime_ns != kept.st_mtime_ns
        assert [pq.read_metadata(file).num_rows for file in files] == [3600, 3600]

    def test_does_not_take_a_foreign_file_for_its_own(self, filled: Place, tmp_path: Path) -> None:
        foreign = tmp_path / "north.meter.power.csv"
        foreign.write_text("mine")
        refused(filled.run("export", "--all", *WINDOW, "--output-dir", tmp_path), "north.meter.power.csv", "--restart")
        assert foreign.read_text() == "mine"


FOLD = """
from kilowatch.services import Kilowatch
from kilowatch.config import load_settings
settings = load_settings()  # which the tests take away
from tests.conftest import Clock
from tests.history.test_folding import SENT, Keeping, minutes

clock = Clock(SENT)
with Kilowatch(settings, clock=clock) as services:
    keeping = Keeping.of(services, clock)
    keeping.send(minutes("2026-10-24T22:00", 300), minutes("2026-10-24T21:00", 300))
    clock.advance(days=9)
    keeping.send(minutes("2026-11-05T00:00", 100))
    keeping.fold_and_delete()
"""


def test_of_folded_readings_says_once_from_when_on_they_are_raw(tmp_path: Path) -> None:
    folded = [sys.executable, "-c", FOLD]
    subprocess.run(folded, env=environment(tmp_path / "var"), check=True, capture_output=True)

    def said(*options: object, start: str = "2026-10-01T00:00:00Z") -> str:
        window = ("--start", start, "--end", "2026-11-06T00:00:00Z")
        done = kilowatch("export", "--all", *window, *map(str, options), data_dir=tmp_path / "var")
        assert done.returncode == 0, done.stderr
        return done.stderr

    assert said().count("2026-10-25T03:00:00Z are raw") == 1
    assert said("--output-dir", tmp_path / "out").count("2026-10-25T03:00:00Z are raw") == 1
    assert said("--resolution", "1h") == ""
    assert said(start="2026-11-01T00:00:00Z") == ""
