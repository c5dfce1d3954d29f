"""`kilowatch export`, as a process."""

import sqlite3
from pathlib import Path

import pytest

from tests.cli.conftest import WINDOW, Place, refused


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

    def test_imported_again_gives_the_same_history(self, filled: Place, tmp_path: Path) -> None:
        path = tmp_path / "round.csv"
        options = ("--subscription", filled.subscription_id, *WINDOW)
        assert filled.run("export", *options, "--output", path).returncode == 0
        before = path.read_bytes()
        done = filled.run("import", path)
        assert (done.returncode, done.stdout) == (0, "7,200 readings stored, 0 refused.\n")
        assert filled.run("export", *options).stdout.encode() == before

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
            (("--metric", "1", "--start", "2026-01-05", "--end", "2026-01-06T00:00:00Z"), "offset"),
        ],
    )
    def test_says_what_it_can_not_do(self, place: Place, options: tuple[str, ...], word: str) -> None:
        done = place.run("export", *options)
        refused(done, word)
        assert done.stdout == ""
