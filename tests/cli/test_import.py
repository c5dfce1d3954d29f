"""`kilowatch import`, as a process: files of every format, broken ones, and interruptions."""

import gzip
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest

from tests.cli.conftest import Place, refused
from tests.processes import PROGRAM, environment, wait_until

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

HEADER = "metric,timestamp,value\n"
DAY = ("--start", "2020-01-01T00:00:00Z", "--end", "2020-01-02T00:00:00Z")
POWER = "north/meter/power"


def time(second: int) -> str:
    return f"2020-01-01T{second // 3600:02}:{second // 60 % 60:02}:{second % 60:02}Z"


def table(values: list[float], *, first: int = 0) -> pa.Table:
    instants = pa.array([(1_577_836_800 + first + n) * 1000 for n in range(len(values))], pa.timestamp("ms", "UTC"))
    return pa.table({"metric": [POWER] * len(values), "timestamp": instants, "value": values})


def written(path: Path, values: list[float], *, first: int = 0) -> Path:
    """A file of readings of the power, one a second, in the format that its name says."""
    rows = [{"metric": POWER, "timestamp": time(first + n), "value": value} for n, value in enumerate(values)]
    kind = path.name.removesuffix(".gz").removesuffix(".zst").partition(".")[2]
    sink = pa.BufferOutputStream()
    if kind == "csv":
        body = (HEADER + "".join(f"{POWER},{row['timestamp']},{row['value']}\n" for row in rows)).encode()
    elif kind == "json":
        body = json.dumps({"readings": rows}).encode()
    elif kind == "columns.json":
        times = [row["timestamp"] for row in rows]
        body = json.dumps({"series": [{"metric": POWER, "timestamps": times, "values": values}]}).encode()
    elif kind in ("jsonl", "ndjson"):
        body = "".join(json.dumps(row) + "\n" for row in rows).encode()
    elif kind in ("lp", "line"):
        body = "".join(
            f"m,site=north,device=meter power={value} {(1_577_836_800 + first + n) * 10**9}\n"
            for n, value in enumerate(values)
        ).encode()
    elif kind == "parquet":
        pq.write_table(table(values, first=first), sink, row_group_size=2)
        body = sink.getvalue().to_pybytes()
    else:
        open_writer = pa.ipc.new_file if kind == "arrow" else pa.ipc.new_stream
        with open_writer(sink, table(values, first=first).schema) as writer:
            writer.write_table(table(values, first=first), max_chunksize=2)
        body = sink.getvalue().to_pybytes()
    if path.suffix == ".gz":
        body = gzip.compress(body)
    elif path.suffix == ".zst":
        body = zstd.compress(body)
    path.write_bytes(body)
    return path


def power_of(place: Place) -> list[float]:
    return [float(row["value"]) for row in place.exported("--metric", POWER, *DAY)]


KINDS = ["csv", "json", "columns.json", "jsonl", "ndjson", "parquet", "arrow", "arrows", "ipc", "lp", "line"]


class TestFormats:
    def test_comes_back_to_what_could_not_be_read_though_nothing_behind_it_was_wrong(
        self, place: Place, tmp_path: Path
    ) -> None:
        path = tmp_path / "broken.lp"
        path.write_bytes(b"m,site=north,device=meter power=1 0\n\xff\n# the end, a part of its own")
        for _ in range(2):
            done = place.run("import", path)
            assert done.returncode == 1
            assert "lines 1 to 2: unable to parse" in done.stderr

    def test_each_is_known_by_its_name_plain_and_compressed(self, place: Place, tmp_path: Path) -> None:
        names = [f"{kind}{ending}" for kind in KINDS for ending in ("", ".gz", ".zst")]
        values = [[number + n / 4 for n in range(5)] for number in range(len(names))]
        files = [
            written(tmp_path / f"readings.{name}", some, first=1000 + 5 * number)
            for number, (name, some) in enumerate(zip(names, values, strict=True))
        ]
        done = place.run("import", *files)
        assert (done.returncode, done.stdout) == (0, f"{5 * len(names)} readings stored, 0 refused.\n"), done.stderr
        since = ("--start", time(1000), "--end", time(2000))
        found = [float(row["value"]) for row in place.exported("--metric", POWER, *since)]
        assert found == [value for some in values for value in some]

    def test_of_files_with_the_same_readings_the_last_wins(self, place: Place, tmp_path: Path) -> None:
        files = [
            written(tmp_path / f"{value}.{kind}", [float(value)])
            for value, kind in enumerate(["parquet", "csv", "lp", "json"])
        ]
        for order in (files, files[::-1]):
            assert place.run("import", *order).returncode == 0
            assert power_of(place)[0] == float(order[-1].name[0])

    def test_standard_input_and_any_name_need_the_format(self, place: Place, tmp_path: Path) -> None:
        text = written(tmp_path / "x.jsonl", [1.5, 2.5]).read_text()
        assert place.run("import", "-", "--format", "jsonl", stdin=text).returncode == 0
        assert power_of(place)[:2] == [1.5, 2.5]
        refused(place.run("import", "-", stdin=text), "--format")
        odd = written(tmp_path / "x.csv", [7.0]).rename(tmp_path / "readings.txt")
        refused(place.run("import", odd), "readings.txt", "--format")
        refused(place.run("import", odd, "--format", "xml"), "--format", "csv")
        assert place.run("import", odd, "--format", "csv").returncode == 0
        assert power_of(place)[0] == 7.0

    def test_standard_input_is_left_to_others_where_it_is_no_file_of_ours(self, place: Place, tmp_path: Path) -> None:
        """The engine takes what it finds at descriptor 0 for rows; here that are the files still to be imported."""
        files = [written(tmp_path / f"{n}.csv", [float(n)], first=n) for n in range(3)]
        loop = 'while read -r file; do "$@" "$file" || exit 1; done'
        done = subprocess.run(
            ["/bin/sh", "-c", loop, "sh", *PROGRAM, "import"],
            env=environment(place.data_dir),
            input="".join(f"{file}\n" for file in files),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (done.returncode, done.stdout) == (0, "1 readings stored, 0 refused.\n" * 3), done.stderr
        assert power_of(place)[:3] == [0.0, 1.0, 2.0]

    def test_times_of_line_protocol_count_what_is_said(self, place: Place, tmp_path: Path) -> None:
        path = tmp_path / "seconds.lp"
        path.write_text("m,site=north,device=meter power=42 1577836800\n")
        assert place.run("import", path, "--precision", "s").returncode == 0
        assert power_of(place)[0] == 42.0
        assert place.run("import", path, "--precision", "h").returncode == 2

    def test_a_large_json_document_is_read_in_parts(self, place: Place, tmp_path: Path) -> None:
        size = 700_000  # more than two parts, and more than is read at once
        rows, columns = tmp_path / "rows.json", tmp_path / "columns.json"
        line = json.dumps({"metric": POWER, "timestamp": "2020-01-01T00:00:00Z", "value": 1.5})
        rows.write_text('{"readings": [' + ",".join([line] * (size - 1) + [line.replace("1.5", "2.5")]) + "]}")
        done = place.run("import", rows)
        assert done.stdout == f"{size:,} readings stored, 0 refused.\n", done.stderr
        assert power_of(place)[0] == 2.5
        times = [time(n % 86_400) for n in range(size)]
        values = [float(n // 86_400) for n in range(size)]
        values[-1] = None  # type: ignore[call-overload]  # refused
        columns.write_text(json.dumps({"series": [{"metric": POWER, "timestamps": times, "values": values}]}))
        done = place.run("import", columns)
        assert done.stdout == f"{size - 1:,} readings stored, 1 refused.\n", done.stderr
        assert f"row {size - 1}: bad_value" in done.stderr
        assert set(power_of(place)) == {float(size // 86_400), float(size // 86_400 - 1)}


class TestReport:
    def test_tells_the_lines_that_were_refused_and_keeps_the_good_ones(self, place: Place, tmp_path: Path) -> None:
        good, mixed = tmp_path / "good.csv.gz", tmp_path / "mixed [1].csv"
        good.write_bytes(gzip.compress(f"metric_id,timestamp,value\n{place.metric_id},2020-01-01T00:00:00Z,1".encode()))
        mixed.write_text(
            "\ufeffmetric,timestamp,value\r\n"
            f"{POWER},2020-01-01T00:00:01Z,2\r\n"
            "\r\n"
            f"{POWER},2020-01-01T00:00:02,2\r\n"
            "a/b/c,2020-01-01T00:00:02Z,2\r\n"
            "short\r\n",
            encoding="utf-8",
        )
        done = place.run("import", good, mixed)
        assert done.returncode == 1
        assert done.stdout == "2 readings stored, 3 refused.\n"
        told = [line.removeprefix(f"{mixed}: ").split(": ")[:2] for line in done.stderr.splitlines()]
        assert told == [["line 4", "naive_timestamp"], ["line 5", "unknown_metric"], ["line 6", "malformed"]]
        assert place.run("import", good).returncode == 0

    def test_of_json_lines_that_are_none_refuses_those(self, place: Place, tmp_path: Path) -> None:
        path = tmp_path / "some.jsonl"
        good = json.dumps({"metric": POWER, "timestamp": time(0), "value": 3})
        path.write_text(f'{good}\n\n{{"metric":\n{good},{good}\n[]\n{good}\n]}},"series":[{{\n')
        done = place.run("import", path)
        assert (done.returncode, done.stdout) == (1, "2 readings stored, 4 refused.\n")
        assert re.findall(r"line (\d+): malformed", done.stderr) == ["3", "4", "5", "7"]

    def test_of_line_protocol_tells_the_line(self, place: Place, tmp_path: Path) -> None:
        path = tmp_path / "some.lp"
        path.write_text('# comment\nm,site=north,device=meter power=1 1577836800000000000\nm,site=north power="a"\n')
        done = place.run("import", path)
        assert (done.returncode, done.stdout) == (1, "1 readings stored, 1 refused.\n")
        assert "line 3: " in done.stderr

    def test_of_many_bad_rows_tells_the_first_hundred_by_their_place_in_the_file(
        self, place: Place, tmp_path: Path
    ) -> None:
        path = tmp_path / "big.csv"  # more than one part
        good = f"{place.metric_id},2020-01-01T00:00:00Z,1.00000000000000000000\n"
        path.write_text("metric_id,timestamp,value\n" + good * 400_000 + "0,2020-01-01T00:00:00Z,1\n" * 150)
        done = place.run("import", path)
        assert done.returncode == 1
        assert done.stdout == "400,000 readings stored, 150 refused.\n"
        lines = re.findall(r"line (\d+): unknown_metric", done.stderr)
        assert [int(line) for line in lines] == list(range(400_002, 400_102))
        assert "and 50 rows more" in done.stderr


class TestBrokenFiles:
    def test_are_named_in_a_line_each_while_the_others_are_imported(self, place: Place, tmp_path: Path) -> None:
        whole = written(tmp_path / "whole.csv", [5.0])
        cut_gzip = written(tmp_path / "cut.csv.gz", [1.0] * 20_000)
        cut_gzip.write_bytes(cut_gzip.read_bytes()[:-9])
        cut_zstd = written(tmp_path / "cut.jsonl.zst", [1.0] * 20_000)
        cut_zstd.write_bytes(cut_zstd.read_bytes()[:-9])
        cut_parquet = written(tmp_path / "cut.parquet", [1.0] * 100)
        cut_parquet.write_bytes(cut_parquet.read_bytes()[:-9])
        cut_arrow = written(tmp_path / "cut.arrow", [1.0] * 100)
        cut_arrow.write_bytes(cut_arrow.read_bytes()[:-9])
        misnamed = written(tmp_path / "in.parquet", [1.0]).rename(tmp_path / "misnamed.csv")
        text = written(tmp_path / "in.csv", [1.0]).rename(tmp_path / "text.parquet")
        not_gzip = written(tmp_path / "in.csv", [1.0]).rename(tmp_path / "plain.csv.gz")
        foreign, empty, rubbish = tmp_path / "foreign.csv", tmp_path / "empty.csv", tmp_path / "rubbish.csv"
        foreign.write_text("time;value\n1;2\n")
        empty.write_bytes(b"")
        rubbish.write_bytes(HEADER.encode() + bytes(range(256)) * 100)
        nested = tmp_path / "nested.parquet"
        pq.write_table(pa.table({"metric": [["a"]], "timestamp": [1], "value": [{"a": 1}]}), nested)
        hourly = tmp_path / "hourly.csv"
        hourly.write_text("metric,timestamp,value,unit,aggregate,coverage\n")
        expected = {
            cut_gzip: "end",
            cut_zstd: "end",
            cut_parquet: "parquet",
            cut_arrow: "arrow",
            misnamed: "--format parquet",
            text: "not Parquet",
            not_gzip: "gzip",
            foreign: "metric,timestamp,value",
            empty: "empty",
            rubbish: "UTF-8",
            nested: "metric",
            hourly: "--resolution raw",
        }
        done = place.run("import", *expected, whole)
        assert done.returncode == 1
        assert "Traceback" not in done.stderr
        lines = done.stderr.splitlines()
        for path, word in expected.items():
            (line,) = [line for line in lines if line.startswith(f"kilowatch: {path}: ")]
            assert word.lower() in line.removeprefix(f"kilowatch: {path}").lower(), line
        assert f"{len(expected)} of {len(expected) + 1} files could not be read to the end" in lines[-1]
        assert power_of(place)[0] == 5.0

    def test_that_are_none_are_a_wrong_use(self, place: Place, tmp_path: Path) -> None:
        for path in (tmp_path / "nowhere.csv", tmp_path):
            done = place.run("import", path)
            assert done.returncode == 2
            assert path.name in done.stderr.replace("\n", "")
        twice = written(tmp_path / "twice.csv", [1.0])
        refused(place.run("import", twice, twice), "twice.csv", "twice")

    @pytest.mark.skipif(os.getuid() == 0, reason="root may read everything")
    def test_that_may_not_be_read_are_a_wrong_use(self, place: Place, tmp_path: Path) -> None:
        path = written(tmp_path / "secret.csv", [1.0])
        path.chmod(0)
        assert place.run("import", path).returncode == 2

    def test_of_which_a_later_part_is_broken_keep_what_came_before(self, place: Place, tmp_path: Path) -> None:
        path = tmp_path / "half.csv"
        good = (HEADER + f"{POWER},2020-01-01T00:00:00Z,1.0000000000000000000000\n" * 300_000).encode()
        path.write_bytes(good + b"\xff\xfe\n" + good.partition(b"\n")[2])
        done = place.run("import", path)
        assert done.returncode == 1
        stored = int(done.stdout.partition(" ")[0].replace(",", ""))
        assert 0 < stored < 300_000
        (line,) = re.findall(r"half\.csv: lines ([\d,]+) to ([\d,]+): ", done.stderr)
        assert int(line[0].replace(",", "")) == stored + 2
        mended = path.read_bytes().replace(b"\xff\xfe\n", b"")
        path.write_bytes(mended)
        done = place.run("import", path)
        assert "changed" in done.stderr
        assert (done.returncode, done.stdout) == (0, "600,000 readings stored, 0 refused.\n")


class TestMemory:
    def test_stays_flat_however_large_the_file(self, place: Place, tmp_path: Path) -> None:
        path = tmp_path / "large.csv.gz"
        line = f"{place.metric_id},2020-01-01T00:00:00Z,1.0000000000000000000000\n".encode() * 10_000
        with gzip.open(path, "wb", compresslevel=1) as file:
            file.write(b"metric_id,timestamp,value\n")
            for _ in range(400):
                file.write(line)  # 220 MB
        code = (
            "import resource, sys; from kilowatch.cli import main\n"
            "try: main()\n"
            "finally: print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)"
        )

        def peak_kb(file: Path) -> int:
            program = [PROGRAM[0], "-c", code, "import", str(file)]
            done = subprocess.run(
                program, env=environment(place.data_dir), capture_output=True, text=True, timeout=120, check=False
            )
            assert done.returncode == 0, done.stderr
            return int(done.stderr.split()[-1])

        small = tmp_path / "small.csv"
        small.write_bytes(b"metric_id,timestamp,value\n" + line)
        assert peak_kb(path) - peak_kb(small) < 450_000


class Interrupted:
    """A running import, ended when some of it is stored."""

    def __init__(self, place: Place, *files: Path) -> None:
        self.place = place
        self.records = place.data_dir / "imports"
        self.process = subprocess.Popen(
            [*PROGRAM, "import", *map(str, files)],
            env=environment(place.data_dir),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def end(self, number: signal.Signals, path: Path) -> tuple[int, str]:
        """The exit status, and what was said."""
        wait_until(lambda: self.accepted(path) > 0 or self.process.poll() is not None, "a part is stored")
        assert self.process.poll() is None, self.process.communicate()
        self.process.send_signal(number)
        _, said = self.process.communicate(timeout=60)
        return self.process.returncode, said

    def accepted(self, path: Path) -> int:
        return next((int(record["accepted"]) for record in self._kept() if record["identity"]["path"] == str(path)), 0)

    def knows(self, *paths: Path) -> bool:
        """Whether there is still a record of one of these files."""
        return any(record["identity"]["path"] in map(str, paths) for record in self._kept())

    def _kept(self) -> Iterator[dict[str, Any]]:
        for file in sorted(self.records.glob("*.json")):
            yield json.loads(file.read_text())


SIZE = 1_000_000


@pytest.fixture(scope="module")
def long_csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """More than can be stored at once: a reading each 50 ms of a day, the last ten thousand written twice."""
    path = tmp_path_factory.mktemp("long") / "long.csv"
    values = pa.array([float(n) for n in range(SIZE)])
    instants = pa.array([1_577_836_800_000 + 50 * n for n in range(SIZE)], pa.timestamp("ms", "UTC"))
    text = instants.cast(pa.timestamp("ms")).cast(pa.string())
    zulu = pa.compute.binary_join_element_wise(pa.compute.replace_substring(text, " ", "T"), "Z", "")
    metric = pa.array(["north/counter/energy"] * SIZE)
    whole = pa.table({"metric": metric, "timestamp": zulu, "value": values})
    older = whole.slice(SIZE - 10_000).set_column(2, "value", pa.array([-1.0] * 10_000))
    pa_csv.write_csv(pa.concat_tables([older, whole]), path)
    return path


class TestInterruption:
    @pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
    def test_the_same_command_goes_on_and_everything_is_there_once(
        self, place: Place, long_csv: Path, tmp_path: Path, number: signal.Signals
    ) -> None:
        first = written(tmp_path / "first.csv", [1.0])
        running = Interrupted(place, first, long_csv)
        status, said = running.end(number, long_csv)
        if number == signal.SIGKILL:
            assert status == -signal.SIGKILL
        else:
            assert status == 130
            assert "the same command goes on" in said
        assert "Traceback" not in said
        stored = running.accepted(long_csv)
        assert 0 < stored < SIZE
        done = place.run("import", first, long_csv)
        assert (done.returncode, done.stdout) == (0, f"{SIZE + 10_001:,} readings stored, 0 refused.\n"), done.stderr
        assert f"{long_csv}: goes on where it was ({stored:,} readings stored" in done.stderr
        assert f"{first}: is done already" in done.stderr
        assert not running.knows(first, long_csv)
        window = ("--start", "2020-01-01T00:00:00Z", "--end", "2020-01-03T00:00:00Z")
        (total,) = place.exported(
            *("--metric", "north/counter/energy", "--resolution", "1w", "--aggregate", "count", *window)
        )
        assert int(total["value"]) == SIZE
        last = place.exported(
            *(
                "--metric",
                "north/counter/energy",
                "--start",
                "2020-01-01T13:53:19.900Z",
                "--end",
                "2020-01-02T00:00:00Z",
            )
        )
        assert [float(row["value"]) for row in last] == [SIZE - 2.0, SIZE - 1.0]

    def test_begins_anew_when_told_so_or_when_the_file_is_another(self, place: Place, tmp_path: Path) -> None:
        path = tmp_path / "again.csv"
        line = f"{POWER},2020-01-01T00:00:00Z,1.0000000000000000000000\n"
        for change in ("", "--restart", "changed"):
            path.write_text(HEADER + line * 900_000)
            running = Interrupted(place, path)
            running.end(signal.SIGKILL, path)
            if change == "changed":
                path.write_text(HEADER + line * 3)
            done = place.run("import", path, *([change] if change.startswith("--") else []))
            expected = 3 if change == "changed" else 900_000
            assert (done.returncode, done.stdout) == (0, f"{expected:,} readings stored, 0 refused.\n")
            assert ("goes on where it was" in done.stderr) == (change == "")
            assert ("has changed" in done.stderr) == (change == "changed")
            assert not running.knows(path)
