"""What is kept of the history: as much memory as was allowed, and nothing that may have changed while it was read."""

import tracemalloc

import numpy as np
import pytest

from kilowatch.history.model import Points, Rows
from kilowatch.history.spans import DAY_MS, Spans, Stretch


def rows_of(metric_ids: np.ndarray, instant: int = 0) -> Rows:
    ids = metric_ids.astype(np.uint32)
    return Rows(ids, np.full(len(ids), instant, np.int64), np.zeros(len(ids)), received_at=1)


def stretch(metric_id: int, day: int = 0) -> Stretch:
    return Stretch(metric_id, "readings", DAY_MS, day)


NOTHING = Points(1, np.empty(0, np.int64), np.empty(0))


class TestChanges:
    @pytest.mark.parametrize("metrics", [1, 500, 60_000])
    def test_any_number_of_them_since_it_was_read_is_too_many_to_keep_it(self, metrics: int) -> None:
        for changes in (1, 30, 1100):
            spans = Spans(1_000_000)
            before = spans.moment()
            spans.stored(rows_of(np.array([1])))
            for _ in range(changes - 1):
                spans.stored(rows_of(np.arange(2, 2 + metrics)))
            spans.keep(stretch(1), NOTHING, read_after=before)
            assert spans.find(stretch(1)) is None
            spans.keep(stretch(1), NOTHING, read_after=spans.moment())
            assert spans.find(stretch(1)) is NOTHING

    def test_those_of_others_are_no_reason(self) -> None:
        spans = Spans(1_000_000)
        before = spans.moment()
        spans.stored(rows_of(np.array([2])))
        spans.stored(rows_of(np.array([1]), DAY_MS))
        spans.removed([1], -DAY_MS, -1)
        spans.keep(stretch(1), NOTHING, read_after=before)
        assert spans.find(stretch(1)) is NOTHING

    def test_take_little_memory_however_many_metrics_there_are(self) -> None:
        spans, rows = Spans(1_000_000), rows_of(np.arange(1, 20_001))
        tracemalloc.start()
        for _ in range(200):
            spans.stored(rows)
        used, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert used < 10_000_000  # of all it would be 96 MB, and of as many as are remembered 480
