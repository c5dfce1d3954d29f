"""What memory says of where each metric's history ends is never too early, whatever was heard, asked and forgotten."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from kilowatch.history.frontier import NOTHING, UNKNOWN, Frontier

METRICS = 3
_IDS = np.arange(1, METRICS + 1, dtype=np.uint32)
_metric = st.integers(1, METRICS)
_reached = st.dictionaries(_metric, st.integers(0, 20), min_size=1)
_events = st.lists(
    st.one_of(
        st.tuples(st.just("stored here"), _reached),
        st.tuples(st.just("stored elsewhere"), _reached),
        st.tuples(st.just("stored elsewhere, no times said"), _reached),
        st.tuples(st.just("stored elsewhere, no metrics said"), _reached),
        st.tuples(st.just("forget"), _metric),
        st.tuples(st.just("ask"), _metric),
        st.tuples(st.just("learn"), st.just(0)),
    ),
    max_size=30,
)


class TestFrontier:
    @given(_events)
    def test_says_the_time_of_the_newest_reading_or_a_later_one(self, events: list[tuple[str, object]]) -> None:
        frontier, stored = Frontier(), dict.fromkeys(range(1, METRICS + 1), NOTHING)
        asked: list[tuple[int, int, int]] = []
        for turn, (what, about) in enumerate(events, start=1):
            if isinstance(about, dict):
                stored |= {metric: max(ts, stored[metric]) for metric, ts in about.items()}
            match what, about:
                case "stored here", dict():
                    frontier.stored(np.array(list(about), np.uint32), np.array(list(about.values()), np.int64))
                case "stored elsewhere", dict():
                    frontier.hear(turn, about, about)
                case "stored elsewhere, no times said", dict():
                    frontier.hear(turn, about, None)
                case "stored elsewhere, no metrics said", _:
                    frontier.hear(turn, None, None)
                case "forget", int():
                    frontier.forget([about])
                case "ask", int():
                    asked.append((about, stored[about], frontier.version))
                case "learn", _:
                    for metric, newest, version in asked:
                        frontier.learn(np.array([metric], np.uint32), np.array([newest]), version=version)
                    asked.clear()
            assert (frontier.of(_IDS) >= list(stored.values())).all()

    def test_knows_what_the_store_said_until_it_hears_of_more(self) -> None:
        frontier = Frontier()
        frontier.learn(_IDS[:2], np.array([5, NOTHING]), version=frontier.version)
        assert frontier.of(_IDS).tolist() == [5, NOTHING, UNKNOWN]
        frontier.hear(1, {1, 2}, {1: 3, 2: 7})
        assert frontier.of(_IDS).tolist() == [5, 7, UNKNOWN]
        frontier.hear(2, {2}, None)
        assert frontier.of(_IDS).tolist() == [5, UNKNOWN, UNKNOWN]

    def test_has_heard_of_the_turns_that_it_was_told_of(self) -> None:
        frontier = Frontier()
        frontier.hear(4, (), {})
        assert frontier.has_heard(4)
        assert not frontier.has_heard(5, within_s=0.001)
