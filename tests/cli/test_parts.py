"""Files in parts: what an export writes is read again to the last bit, in any format, in parts of any size."""

import gzip
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kilowatch.cli import parts
from kilowatch.cli.parts import Part, Source
from kilowatch.cli.resuming import Place
from kilowatch.facility.model import PlacedMetric
from kilowatch.history import formats as written
from kilowatch.history.model import HistoryStream, Series, SeriesRequest
from kilowatch.ingest import formats as read
from kilowatch.kit.timespan import Window
from kilowatch.kit.units import Conversion

Readings = list[tuple[str, int, float]]
MEDIA = {"csv": written.CSV, "json": written.JSON, "parquet": written.PARQUET, "arrow": written.ARROW}
CONTENT_TYPES = {"csv": "text/csv", "json": "application/json", "arrow": written.ARROW}

histories = st.lists(
    st.dictionaries(st.integers(0, 4_000_000_000_000), st.floats(allow_nan=False, allow_infinity=False), max_size=25),
    min_size=1,
    max_size=3,
)


@pytest.fixture(params=["small parts", "large parts"])
def _part_size(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "small parts":
        monkeypatch.setattr(parts, "PART_BYTES", 300)
        monkeypatch.setattr(parts, "PART_ROWS", 7)
        monkeypatch.setattr(parts, "MOST_JSON", 400)


def a_metric(number: int) -> PlacedMetric:
    return PlacedMetric(
        *(number, 1, "home", "UTC", 1, "roof", f"metric_{number}", "Metric", "power", "kW", "gauge", 900, None, None)
    )


def exported(history: list[dict[int, float]], media: str, timezone: str) -> bytes:
    """The history of some metrics as an export writes it."""
    pieces = [
        Series(
            SeriesRequest(a_metric(number), None, "kW", Conversion()),
            np.array(sorted(readings), np.int64),
            np.array([readings[instant] for instant in sorted(readings)], np.float64),
            None,
        )
        for number, readings in enumerate(history, start=1)
    ]
    window = Window.parse("1970-01-01T00:00:00Z", "2100-01-01T00:00:00Z")
    stream = HistoryStream(window, None, timezone, [piece.request for piece in pieces], iter(pieces))
    return b"".join(written.write(stream, media))


def readings_of(some: Iterator[Part] | list[Part]) -> Readings:
    found: Readings = []
    for part in some:
        columns = read.read(part.body, CONTENT_TYPES[part.kind], most=1 << 30)
        assert not columns.verdicts.refused.any(), columns.verdicts.report()
        found += [
            (str(columns.references[reference]), instant, value)
            for reference, instant, value in zip(
                columns.reference_of.tolist(), columns.timestamps.tolist(), columns.values.tolist(), strict=True
            )
        ]
        if columns.units is not None and len(columns):
            assert {columns.unit_names[unit] for unit in columns.units.tolist()} == {"kW"}
    return found


@pytest.mark.usefixtures("_part_size")
@pytest.mark.parametrize("form", ["csv", "csv.gz", "json", "json.gz", "parquet", "arrow"])
class TestRoundTrip:
    def test_every_reading_comes_back_and_from_any_place_on_the_rest(self, form: str) -> None:
        @settings(max_examples=15, deadline=None)
        @given(histories, st.sampled_from(["UTC", "Australia/Lord_Howe", "America/St_Johns"]))
        def check(history: list[dict[int, float]], timezone: str) -> None:
            kind = form.removesuffix(".gz")
            body = exported(history, MEDIA[kind], timezone)
            expected = [
                (f"home/roof/metric_{number}", instant, readings[instant])
                for number, readings in enumerate(history, start=1)
                for instant in sorted(readings)
            ]
            with tempfile.TemporaryDirectory() as directory:
                path = Path(directory) / f"history.{form}"
                path.write_bytes(gzip.compress(body) if form.endswith(".gz") else body)
                source = Source.named(path, None)
                whole = list(source.parts(Place()))
                assert readings_of(whole) == expected
                assert [part.place for part in whole] == sorted({part.place for part in whole})
                for done in range(len(whole) if expected else 0):
                    rest = list(source.parts(whole[done].place))
                    assert readings_of(rest) == readings_of(whole[done + 1 :])
                    assert [part.place for part in rest[-1:]] == [part.place for part in whole[done + 1 :][-1:]]
                    assert [part.first for part in rest[:1]] == [part.first for part in whole[done + 1 : done + 2]]

        check()


class TestPlaces:
    def test_a_line_is_counted_as_an_editor_does(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(parts, "PART_BYTES", 32)
        path = tmp_path / "lines.csv"
        lines = [f"a/b/c,2020-01-01T00:00:{n:02}Z,{n}" if n % 3 else "" for n in range(2, 40)]
        path.write_text("\r\n".join(["metric,timestamp,value", *lines]))
        found: dict[float, str] = {}
        for part in Source.named(path, None).parts(Place()):
            values = read.read(part.body, "text/csv", most=1 << 20).values.tolist()
            found |= {value: part.where(row) for row, value in enumerate(values)}
        assert found == {float(n): f"line {n}" for n in range(2, 40) if n % 3}

    def test_a_line_that_does_not_end_is_no_text(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(parts, "LONGEST_LINE", 1000)
        monkeypatch.setattr(parts, "PART_BYTES", 100)
        path = tmp_path / "long.jsonl"
        path.write_bytes(b"\n" + b"x" * 5000)
        with pytest.raises(parts.Broken, match="line 2 is longer"):
            list(Source.named(path, None).parts(Place()))
