"""What a site's devices carry from one time to the next, found for any time without computing all that was before.

Two things are carried. A *counter* shows the energy since it was made: it is known at one time (its first state), and
everywhere else by what flows between. A *store* (a battery's charge, a turbine that stopped in a storm, a temperature
that lags) forgets: begun empty and begun full, two courses meet within days, and from there on it does not matter what
was before. So the state at a time is the same whatever was asked earlier, and a device of five years shows its latest
value at once.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from kilowatch.errors import Abandoned
from kilowatch.simulation.model import KnownState, Part, Site
from kilowatch.simulation.plant import CHANNELS, SimulatedDevice, State, simulate
from kilowatch.simulation.positions import place_of
from kilowatch.simulation.timeline import GRID_MS, Segment, active, segments

BLOCK_MS = 10 * 86_400_000
"""Time between two states that are kept; simulated in one go."""

_DAY_MS = 86_400_000
_MEET_WITHIN_MS = (3 * _DAY_MS, 30 * _DAY_MS)
_COUNTERS = frozenset(
    channel.key for channels in CHANNELS.values() for channel in channels if channel.behaviour == "counter"
)
_CARRYING = frozenset(["battery", "wind_turbine", "inverter", "heat_pump"])
"""The kinds that carry more than counters: a charge, a storm, a temperature that lags."""

_STORED, _STOPPED = "stored", "stopped"


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """Samples of some time by device and channel, and the state after them. Times are ms since 1970."""

    begin: int
    end: int
    step_s: int
    values: Mapping[tuple[int, str], np.ndarray]
    state: State


class Course:
    """The course of one site. Times are ms since 1970."""

    def __init__(
        self, site_id: int, site: Site, known: Sequence[KnownState], *, stop: Callable[[], bool] = lambda: False
    ) -> None:
        """`known` has a state of each device; the course is left (`Abandoned`) when `stop` says so."""
        self._site_id = site_id
        self._site = site
        self._known: dict[int, dict[int, KnownState]] = {part.device_id: {} for part in site.parts}
        for state in known:
            self._known.setdefault(state.device_id, {})[state.at] = state
        self._stop = stop
        self._first = min((part.begins for part in site.parts), default=0)
        self._uncounted: set[int] = set()
        self._found: list[KnownState] = []

    def take_found(self) -> list[KnownState]:
        """States that were found since this was asked last, and that save work if they are known the next time."""
        found, self._found = self._found, []
        return found

    def pieces(self, begin: int, end: int, state: State, *, cuts: Sequence[int] = ()) -> Iterator[Piece]:
        """What happens from `begin` until before `end`, given the state at `begin`; also cut at the times given."""
        for segment in segments(self._site, begin, end):
            blocks = range(segment.begin // BLOCK_MS * BLOCK_MS + BLOCK_MS, segment.end, BLOCK_MS)
            inside = (cut for cut in cuts if segment.begin < cut < segment.end)
            for first, last in pairwise(sorted({segment.begin, *blocks, *inside, segment.end})):
                piece = self._piece(segment, first, last, self._entered(state, segment.parts, first))
                state = piece.state
                self._keep(last, state)
                yield piece

    def _piece(self, segment: Segment, begin: int, end: int, state: State) -> Piece:
        if self._stop():
            raise Abandoned
        place = place_of(self._site_id, segment.place)
        devices = [
            SimulatedDevice(
                part.device_id, part.kind, part.properties, part.device_id, place, counts=part.joins <= segment.begin
            )
            for part in segment.parts
        ]
        values, after = simulate(devices, begin_ms=begin, end_ms=end, step_s=segment.step_s, state=state)
        return Piece(begin, end, segment.step_s, values, after)

    def _entered(self, state: State, parts: Sequence[Part], instant: int) -> State:
        """With what is known of devices that begin here; of others the counters begin at 0, which is not to be kept."""
        new = [part.device_id for part in parts if str(part.device_id) not in state]
        known = {number: self._known[number][instant].state for number in new if instant in self._known[number]}
        self._uncounted |= set(new) - known.keys()
        return state | {str(number): carried for number, carried in known.items()}

    def _keep(self, instant: int, state: State) -> None:
        """What holds at the end of a block, of devices whose counters are known."""
        if instant % BLOCK_MS:
            return
        for part in self._here(instant):
            number = part.device_id
            if str(number) in state and number not in self._uncounted and instant not in self._known[number]:
                self._learn(KnownState(number, instant, state[str(number)]))

    def _learn(self, state: KnownState) -> None:
        self._known[state.device_id][state.at] = state
        self._found.append(state)

    # ── the state at a time ──

    def can_go_on(self, instant: int, until: int) -> bool:
        """Whether a course that has reached an instant can go on: it is known what those show that begin by then."""
        starts = self._starts(instant, until)
        return all(start == instant or start in self._known[device] for device, start in starts.items())

    def state_at(self, instant: int, *, until: int) -> State:
        """What is carried at an instant, with which those that begin before `until` can come in."""
        begin, lacking = self._where_to_begin(instant, until)
        if lacking:
            self._count_towards(begin, lacking)
        state = self._carried(begin)
        for piece in self.pieces(begin, instant, state):
            state = piece.state
        return state

    def _where_to_begin(self, instant: int, until: int) -> tuple[int, dict[int, tuple[int, int]]]:
        """A time from which each device comes by one at which its counters are known.

        And for each whose counters are not known where it begins: that time, and the next at which they are.
        """
        begin = max(instant // BLOCK_MS * BLOCK_MS, self._first)
        while True:
            lacking: dict[int, tuple[int, int]] = {}
            lowest = begin
            for device_id, start in self._starts(begin, until).items():
                known = self._known[device_id]
                if start in known or not known:
                    continue
                later = [at for at in known if at > start]
                if later:
                    lacking[device_id] = (start, min(later))
                else:
                    lowest = min(lowest, max(known) // BLOCK_MS * BLOCK_MS)
            if max(lowest, self._first) == begin:
                return begin, lacking
            begin = max(lowest, self._first)

    def _starts(self, begin: int, until: int) -> dict[int, int]:
        """When each device comes in, of those that are there between two times."""
        starts: dict[int, int] = {}
        for part in self._site.parts:
            if part.begins < until and (part.ends is None or part.ends > begin):
                start = max(part.begins, begin)
                starts[part.device_id] = min(start, starts.get(part.device_id, start))
        return starts

    def _count_towards(self, begin: int, lacking: Mapping[int, tuple[int, int]]) -> None:
        """Count from 0 where counters are not known, to where they are, and learn what they were."""
        state = self._carried(begin)
        self._uncounted = set(lacking)
        ends = {known_at for _, known_at in lacking.values()}
        cuts = sorted(ends | {start for start, _ in lacking.values()})
        passed = [(begin, state)]
        passed += [(piece.end, piece.state) for piece in self.pieces(begin, max(ends), state, cuts=cuts)]
        self._uncounted = set()
        for device_id, (start, known_at) in lacking.items():
            name = str(device_id)
            counted = [
                (at, reached.get(name, {}) if at > start or start == begin else {})
                for at, reached in passed
                if start <= at <= known_at
            ]
            known, at_end = self._known[device_id][known_at].state, counted[-1][1]
            keys = (known.keys() | at_end.keys()) & _COUNTERS
            offset = {key: int(known.get(key, 0)) - int(at_end.get(key, 0)) for key in keys}
            for at, carried in counted:
                if at == start or (at % BLOCK_MS == 0 and at < known_at):
                    counters = {key: str(base + int(carried.get(key, 0))) for key, base in offset.items()}
                    self._learn(KnownState(device_id, at, carried | counters))

    # ── what forgets ──

    def _carried(self, instant: int) -> State:
        """What is known at an instant at which a course may begin; counters may be missing."""
        known = {part.device_id: self._known[part.device_id].get(instant) for part in self._here(instant)}
        whole = {str(number): state.state for number, state in known.items() if state and self._is_whole(state)}
        if len(whole) == len(known):
            return whole
        settled = self._settled(instant)
        for number, state in known.items():
            counters = {key: state.state[key] for key in state.state.keys() & _COUNTERS} if state else {}
            settled[str(number)] = settled.get(str(number), {}) | counters
        return settled

    def _here(self, instant: int) -> list[Part]:
        return active(self._site.parts, instant)

    def _is_whole(self, state: KnownState) -> bool:
        """Whether it has more than counters: a device that begins has nothing else yet."""
        begins = min(part.begins for part in self._site.parts if part.device_id == state.device_id)
        return not state.is_first or state.at == begins

    def _settled(self, instant: int) -> State:
        """What the devices have stored at an instant, whatever was before; no counters."""
        kinds = [part.kind for part in self._here(instant)]
        if not _CARRYING & set(kinds):
            return {}
        stages = max(1, kinds.count("battery"))
        for length in _MEET_WITHIN_MS:
            if instant - stages * length > self._first and (met := self._met(instant, stages, length)) is not None:
                return met
        return self._run(self._first, instant, {})

    def _met(self, instant: int, stages: int, length: int) -> State | None:
        """The state in which courses from empty and from full met before an instant; `None` if they did not.

        What a battery does depends on those that come before it, so they meet one after another, each in a stage.
        """
        begin = (instant - stages * length) // GRID_MS * GRID_MS
        low, high = (
            {str(part.device_id): extreme.get(part.kind, {}) for part in self._here(begin)}
            for extreme in (_EMPTY, _FULL)
        )
        for stage in range(stages):
            if stage:
                for part in self._here(begin):
                    name = str(part.device_id)
                    if _stored(low.get(name)) != _stored(high.get(name)):
                        low[name], high[name] = _EMPTY.get(part.kind, {}), _FULL.get(part.kind, {})
            end = instant - (stages - 1 - stage) * length
            low, high = self._run(begin, end, low), self._run(begin, end, high)
            begin = end
        has_met = {name: _stored(state) for name, state in low.items()} == {n: _stored(s) for n, s in high.items()}
        return low if has_met else None

    def _run(self, begin: int, end: int, state: State) -> State:
        """The state after a time, without counters; nothing is learned from it."""
        for segment in segments(self._site, begin, end):
            state = self._piece(segment, segment.begin, segment.end, state).state
        return {name: {key: one[key] for key in one.keys() - _COUNTERS} for name, one in state.items()}


_EMPTY: dict[str, dict[str, Any]] = {"battery": {_STORED: 0}, "wind_turbine": {_STOPPED: False}}
_FULL: dict[str, dict[str, Any]] = {"battery": {_STORED: 2**200}, "wind_turbine": {_STOPPED: True}}
"""By kind. More than any battery holds is taken for all that it can hold."""


def _stored(state: Mapping[str, Any] | None) -> tuple[Any, Any]:
    return (state or {}).get(_STORED), (state or {}).get(_STOPPED)
