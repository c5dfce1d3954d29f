"""Decides what of a site's readings its balance is made of, and over which window."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from datetime import time as clock_time
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import numpy as np
from sqlalchemy import Connection

from kilowatch.auth.model import Principal
from kilowatch.auth.service import Caller, Gate
from kilowatch.balance.arithmetic import Sums, autarky, balanced, links, self_consumption
from kilowatch.balance.circuit import Circuit, circuits
from kilowatch.balance.model import (
    ROLES,
    SOURCES,
    USES,
    Balance,
    BalanceSeries,
    Energy,
    Flow,
    Health,
    Power,
    PowerSeries,
    Role,
    Sources,
    Uses,
)
from kilowatch.errors import invalid, said
from kilowatch.facility import service as facility
from kilowatch.facility.model import PlacedMetric
from kilowatch.history.model import Floats, LatestColumns, Milliseconds, Series, Stop
from kilowatch.history.service import DEFAULT_POINTS, MAX_VALUES, Histories
from kilowatch.history.service import Query as HistoryQuestion
from kilowatch.kit import timespan
from kilowatch.kit.timespan import Resolution, Window, from_ms, to_ms

_WHOLE = "1y"
"""What a window without a series is asked in: its buckets are added up."""
_SPLIT, _SPLIT_OLD, _MOST_SPLIT = ("5m", "1h"), ("15m", "1h"), 20_000
"""How finely a grid that is computed is split into import and export, also where readings are folded; and in how many
buckets at most."""
_COMPLETE = 0.99
_MS_PER_HOUR = 3_600_000
_BEHIND_THE_METER: tuple[Role, ...] = (*SOURCES, "battery")


@dataclass(frozen=True, slots=True)
class Query:
    """A question about a site's balance. `None` leaves the choice: today until now, in the site's zone, no series."""

    start: str | None = None
    end: str | None = None
    resolution: str | None = None
    timezone: str | None = None


class Balances:
    """The energy flow and the balance of sites."""

    def __init__(self, gate: Gate, histories: Histories, clock: Callable[[], datetime]) -> None:
        self._gate = gate
        self._histories = histories
        self._clock = clock

    def flow(self, caller: Caller, site_id: int) -> Flow:
        """The powers of a site by its latest readings. Raises `NoSuchSite`."""
        circuit, _ = self._gate.seeing(caller, _wired_site, site_id).found
        return _flow(circuit, _Newest.of([circuit], self._histories, with_health=False))

    def flows(self, caller: Caller, site_ids: Sequence[int]) -> dict[int, tuple[Flow, Health]]:
        """The powers of those of the sites that the caller may see and that have devices, and how many of these are
        stale. From memory, for hundreds of sites at once.
        """
        wired = self._gate.seeing(caller, _wired_sites, tuple(sorted(site_ids))).found
        newest = _Newest.of(wired, self._histories, with_health=True)
        return {circuit.site_id: (_flow(circuit, newest), _health(circuit, newest)) for circuit in wired}

    def balance(self, caller: Caller, site_id: int, query: Query, *, stop: Stop = lambda: False) -> Balance:
        """The energies of a site in a window, and its mean powers if a resolution is asked.

        Raises:
            NoSuchSite: for the caller there is none.
            Invalid: naming the parameter that is wrong, or too much for one answer.
            Abandoned: `stop` said so.
        """
        circuit, timezone = self._gate.seeing(caller, _wired_site, site_id).found
        zone = timespan.zone(query.timezone or timezone, place="query")
        metrics = [meter.metric for meter in circuit.meters]
        window = self._histories.answerable(metrics, _window(query, zone, self._clock()))
        is_old = any(metric.folded_until_ms > window.start_ms for metric in metrics)
        asked = _resolution(query.resolution, window, zone, is_old=is_old)
        used = _split(circuit, asked, window, zone, is_old=is_old)
        question = HistoryQuestion(window, used.name, timezone=zone.key)
        series = self._histories.both_directions(metrics, question, stop=stop)
        measured = _Measured.of(np.array(used.buckets(window, zone), np.int64), *series)
        return _Reckoning(circuit, measured).balance(window, zone, None if query.resolution is None else asked)

    def recent(self, caller: Caller, site_id: int) -> "Recent":
        """Today's energies, and the powers of the last 24 hours by the quarter. Raises `NoSuchSite`."""
        circuit, timezone = self._gate.seeing(caller, _wired_site, site_id).found
        zone, now = timespan.zone(timezone), self._clock()
        today = _window(Query(), zone, now)
        day = Window(today.end - timedelta(days=1), today.end)
        both = Window(min(day.start, today.start), today.end)  # a day may have 25 hours
        quarters = timespan.resolution_named("15m")
        used = _split(circuit, quarters, both, zone, is_old=False)
        question = HistoryQuestion(both, used.name, timezone=zone.key)
        series = self._histories.both_directions([meter.metric for meter in circuit.meters], question)
        measured = _Measured.of(np.array(used.buckets(both, zone), np.int64), *series)
        return Recent(
            _Reckoning(circuit, measured.between(today)).balance(today, zone, None),
            _Reckoning(circuit, measured).balance(both, zone, quarters),
        )


class Recent(NamedTuple):
    """Today's balance, and that of the last 24 hours with its series."""

    today: Balance
    day: Balance


class _Wired(NamedTuple):
    circuit: Circuit
    timezone: str


def _wired_site(connection: Connection, who: Principal, site_id: int) -> _Wired:
    site, _ = facility.site_of(connection, who, site_id)
    installed = facility.installed_metrics(connection, who, [site_id], quantities=("power", "state_of_charge"))
    return _Wired(circuits(installed).get(site_id, Circuit.of(site_id)), site.timezone)


def _wired_sites(connection: Connection, who: Principal, site_ids: tuple[int, ...]) -> list[Circuit]:
    return list(circuits(facility.installed_metrics(connection, who, site_ids)).values())


# ── what is asked ────────────────────────────────────────────────────────────────────────────────────────────────────


def _window(query: Query, zone: ZoneInfo, now: datetime) -> Window:
    if query.start is not None and query.end is not None:
        return Window.parse(query.start, query.end)
    end = now if query.end is None else timespan.parse_instant(query.end, pointer="end")
    end = from_ms(to_ms(end))
    if query.start is not None:
        start = from_ms(to_ms(timespan.parse_instant(query.start, pointer="start")))
        if start >= end:
            raise invalid(
                "start", said("`start` is not in the past; without `end` the window ends now."), place="query"
            )
        return Window(start, end)
    # of a window without a start, the day that it ends in: at midnight the whole one before
    last = (end - timedelta(milliseconds=1)).astimezone(zone)
    midnight = datetime.combine(last.date(), clock_time(), zone).astimezone(UTC)
    if end <= timespan.EARLIEST:
        raise invalid("end", said("`end` must be after %(year)d began.", year=timespan.EARLIEST.year), place="query")
    return Window(max(midnight, timespan.EARLIEST), end)


def _resolution(name: str | None, window: Window, zone: ZoneInfo, *, is_old: bool) -> Resolution:
    if name is None:
        return timespan.resolution_named(_WHOLE)
    if name == "raw":
        raise invalid(
            "resolution", said("A balance has no raw readings; choose `auto`, or one such as `15m`."), place="query"
        )
    if name == "auto":
        return timespan.finest_resolution(window, zone, points=DEFAULT_POINTS, of_quarters=is_old)
    return timespan.resolution_named(name)


def _split(circuit: Circuit, asked: Resolution, window: Window, zone: ZoneInfo, *, is_old: bool) -> Resolution:
    """What the history is asked in: finer than the answer where the grid has to be computed.

    Args:
        is_old: some of it is folded into quarters of an hour.
    """
    if "grid" in circuit.roles:
        return asked
    most = min(_MOST_SPLIT, MAX_VALUES // max(2 * len(circuit.meters), 1))
    for fine in map(timespan.resolution_named, _SPLIT_OLD if is_old else _SPLIT):
        fits = asked.nominal_s % fine.nominal_s == 0
        if fits and fine.nominal_s < asked.nominal_s and fine.count(window, zone, most=most) <= most:
            return fine
    return asked


# ── now ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True, eq=False)
class _Newest:
    """The newest readings of some metrics, to be found by the metric's id."""

    columns: LatestColumns
    place: dict[int, int]

    @classmethod
    def of(cls, wired: Iterable[Circuit], histories: Histories, *, with_health: bool) -> "_Newest":
        metrics: dict[int, PlacedMetric] = {}
        for circuit in wired:
            metrics |= {meter.metric.id: meter.metric for meter in circuit.meters}
            metrics |= {charge.metric.id: charge.metric for charge in circuit.charges}
            if with_health:
                metrics |= {metric.id: metric for of_device in circuit.signs_of_life for metric in of_device}
        columns = histories.latest_columns(list(metrics.values()))
        return cls(columns, {metric_id: place for place, metric_id in enumerate(metrics)})

    def value(self, metric: PlacedMetric) -> float | None:
        value = float(self.columns.values[self.place[metric.id]])
        return None if math.isnan(value) else value

    def is_stale(self, metric: PlacedMetric) -> bool:
        return bool(self.columns.stale[self.place[metric.id]])

    def timestamps(self, metrics: Iterable[PlacedMetric]) -> list[int]:
        """Of those that have a reading, in ms."""
        found = (int(self.columns.timestamps[self.place[metric.id]]) for metric in metrics)
        return [timestamp for timestamp in found if timestamp >= 0]


def _health(circuit: Circuit, newest: _Newest) -> Health:
    stale = sum(all(map(newest.is_stale, of_device)) for of_device in circuit.signs_of_life)
    return Health(len(circuit.signs_of_life), stale)


def _flow(circuit: Circuit, newest: _Newest) -> Flow:
    powers: dict[Role, Power] = {role: _power(circuit, role, newest) for role in circuit.roles}
    known = {role: power.kw for role, power in powers.items() if power.kw is not None}
    sums = balanced(known, circuit.roles)
    if sums.grid_is_computed and (grid := _together(sums.grid, powers, [*_BEHIND_THE_METER, *USES])) is not None:
        powers["grid"] = grid
    timestamps = newest.timestamps(meter.metric for meter in circuit.meters)
    return Flow(
        site_id=circuit.site_id,
        **{role: powers.get(role) for role in ROLES},
        production=_together(sums.production, powers, SOURCES),
        consumption=_together(sums.consumption, powers, _parts_of_consumption(sums)),
        other=None if sums.other is None else _together(sums.other, powers, ROLES),
        state_of_charge=_state_of_charge(circuit, newest),
        links=[]
        if sums.consumption is None or sums.grid is None or not sums.is_whole
        else links(
            pv=known.get("pv", 0.0),
            wind=known.get("wind", 0.0),
            battery=known.get("battery", 0.0),
            grid=sums.grid,
            consumption=sums.consumption,
        ),
        oldest=from_ms(min(timestamps)) if timestamps else None,
        newest=from_ms(max(timestamps)) if timestamps else None,
        stale=any(power.stale for power in powers.values()),
        complete=all(power.missing == 0 for power in powers.values()),
        metric_ids=[meter.metric.id for meter in circuit.meters] + [charge.metric.id for charge in circuit.charges],
    )


def _power(circuit: Circuit, role: Role, newest: _Newest) -> Power:
    meters = circuit.of_role(role)
    values = [value * meter.kw for meter in meters if (value := newest.value(meter.metric)) is not None]
    return Power(
        sum(values) if values else None,
        devices=len(meters),
        missing=len(meters) - len(values),
        stale=any(newest.is_stale(meter.metric) for meter in meters),
    )


def _together(kw: float | None, powers: dict[Role, Power], roles: Sequence[Role]) -> Power | None:
    """A power that is made of those of some roles; `None` where the site has none of them."""
    parts = [powers[role] for role in roles if role in powers]
    if not parts:
        return None
    return Power(
        kw,
        devices=sum(part.devices for part in parts),
        missing=sum(part.missing for part in parts),
        stale=any(part.stale for part in parts),
        computed=True,
    )


def _state_of_charge(circuit: Circuit, newest: _Newest) -> float | None:
    """Of all batteries in %, by their capacities; each counts the same where one does not say its own."""
    known = [
        (value * charge.percent.scale + charge.percent.offset, charge.capacity_kwh)
        for charge in circuit.charges
        if (value := newest.value(charge.metric)) is not None
    ]
    if not known:
        return None
    weights = [1.0 if any(one is None for _, one in known) else capacity or 0.0 for _, capacity in known]
    return sum(percent * weight for (percent, _), weight in zip(known, weights, strict=True)) / sum(weights)


# ── over a window ────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True, eq=False)
class _Measured:
    """Energies of meters by bucket, in kWh: a row a meter; NaN where there is no data. `edges` are in ms."""

    edges: Milliseconds
    positive: Floats
    negative: Floats
    coverage: Floats

    @classmethod
    def of(cls, edges: Milliseconds, positive: Sequence[Series], negative: Sequence[Series]) -> "_Measured":
        shape = len(positive), len(edges) - 1

        def table(rows: Sequence[Floats | None]) -> Floats:
            return np.array(rows, np.float64).reshape(shape)

        return cls(
            edges,
            table([series.values for series in positive]),
            table([series.values for series in negative]),
            table([series.coverage for series in positive]),
        )

    def folded(self, edges: Milliseconds) -> "_Measured":
        """In longer buckets, each of which ends where one of these does."""
        if len(edges) == len(self.edges):
            return self
        first = np.searchsorted(self.edges, edges[:-1])
        held = np.add.reduceat(self.coverage * np.diff(self.edges), first, axis=1)
        return _Measured(
            edges,
            _added(self.positive, lambda values: np.add.reduceat(values, first, axis=1)),
            _added(self.negative, lambda values: np.add.reduceat(values, first, axis=1)),
            held / np.diff(edges),
        )

    def between(self, window: Window) -> "_Measured":
        """The buckets of a window that begins and ends where one of them does."""
        begin, end = np.searchsorted(self.edges, (window.start_ms, window.end_ms))
        return _Measured(
            self.edges[begin : end + 1],
            self.positive[:, begin:end],
            self.negative[:, begin:end],
            self.coverage[:, begin:end],
        )

    @property
    def whole(self) -> "_Measured":
        """As one bucket."""
        return self.folded(self.edges[[0, -1]])

    @property
    def mean_kw(self) -> Floats:
        """Of each meter and bucket, over the time that data vouches for."""
        hours = self.coverage * np.diff(self.edges) / _MS_PER_HOUR
        nothing = np.full(hours.shape, np.nan)
        means: Floats = np.divide(self.positive - self.negative, hours, out=nothing, where=hours > 0)
        return means


def _added(values: Floats, add: Callable[[Floats], Floats]) -> Floats:
    """Sums that take a gap for nothing, and are a gap where there is nothing else."""
    is_there = ~np.isnan(values)
    total, count = add(np.where(is_there, values, 0.0)), add(is_there.astype(np.float64))
    return np.where(count > 0, total, np.nan)


def _over_meters(values: Floats) -> Floats:
    return _added(values, lambda rows: rows.sum(axis=0))


class _Reckoning:
    """A site's balance, out of what was measured."""

    def __init__(self, circuit: Circuit, measured: _Measured) -> None:
        self._circuit = circuit
        self._measured = measured
        self._whole = measured.whole

    def balance(self, window: Window, zone: ZoneInfo, resolution: Resolution | None) -> Balance:
        net = self._by_role(self._whole.positive - self._whole.negative)
        known = {role: float(kwh[0]) for role, kwh in net.items() if not np.isnan(kwh[0])}
        sums = balanced(known, self._circuit.roles)
        imported, exported = self._grid(sums)
        production = self._made(sums.production, SOURCES)
        consumption = self._made(sums.consumption, _parts_of_consumption(sums))
        return Balance(
            site_id=self._circuit.site_id,
            start=window.start.astimezone(zone),
            end=window.end.astimezone(zone),
            timezone=zone.key,
            sources=Sources(
                pv=self._of_role("pv", known),
                wind=self._of_role("wind", known),
                battery_discharge=self._one_direction("battery", self._whole.positive),
                imported=imported,
            ),
            uses=Uses(
                load=self._of_role("load", known),
                ev_charging=self._of_role("ev_charging", known),
                heating=self._of_role("heating", known),
                other=None if sums.other is None else self._made(sums.other, ROLES),
                battery_charge=self._one_direction("battery", self._whole.negative),
                exported=exported,
            ),
            production=production,
            consumption=consumption,
            self_consumption=_share(self_consumption, production=production, exported=exported),
            autarky=_share(autarky, consumption=consumption, imported=imported),
            complete=bool((self._whole.coverage >= _COMPLETE).all()),
            resolution=None if resolution is None else resolution.name,
            series=None if resolution is None else self._series(resolution.buckets(window, zone), zone),
        )

    def _by_role(self, values: Floats) -> dict[Role, Floats]:
        """Rows of meters as a row for each role."""
        return {role: _over_meters(values[self._circuit.places[role]]) for role in self._circuit.roles}

    def _coverage(self, coverage: Floats, roles: Sequence[Role]) -> Floats:
        """By bucket, of figures that these roles are parts of: the least of theirs, each the mean of its meters."""
        rows = [coverage[self._circuit.places[role]].mean(axis=0) for role in roles if role in self._circuit.roles]
        return np.min(rows, axis=0) if rows else np.zeros(coverage.shape[1])

    def _covered(self, *roles: Role) -> float:
        return float(self._coverage(self._whole.coverage, roles)[0])

    def _of_role(self, role: Role, known: Mapping[Role, float]) -> Energy | None:
        return Energy(known.get(role), self._covered(role)) if role in self._circuit.roles else None

    def _one_direction(self, role: Role, values: Floats) -> Energy | None:
        if role not in self._circuit.roles:
            return None
        kwh = float(_over_meters(values[self._circuit.places[role]])[0])
        return Energy(None if math.isnan(kwh) else kwh, self._covered(role))

    def _made(self, kwh: float | None, roles: Sequence[Role]) -> Energy | None:
        """An energy that is made of those of some roles; `None` where the site has none of them."""
        if not set(roles) & set(self._circuit.roles):
            return None
        return Energy(kwh, self._covered(*roles), computed=True)

    def _grid(self, sums: Sums[float]) -> tuple[Energy | None, Energy | None]:
        """Import and export, as the meter splits them, or else as the buckets do."""
        if not sums.grid_is_computed:
            positive, negative = self._whole.positive, self._whole.negative
            return self._one_direction("grid", positive), self._one_direction("grid", negative)
        net = self._by_role(self._measured.positive - self._measured.negative)
        grid = balanced(net, self._circuit.roles).grid
        assert grid is not None  # there is one for the whole, of the same roles
        covered = self._covered(*_BEHIND_THE_METER, *USES)
        imported, exported = (float(np.nansum(np.maximum(kwh, 0.0))) for kwh in (grid, -grid))
        return Energy(imported, covered, computed=True), Energy(exported, covered, computed=True)

    def _series(self, edges: Sequence[int], zone: ZoneInfo) -> BalanceSeries:
        measured = self._measured.folded(np.array(edges, np.int64))
        powers, roles = self._by_role(measured.mean_kw), self._circuit.roles
        sums = balanced({role: kw for role, kw in powers.items() if not np.isnan(kw).all()}, roles)

        def made(kw: Floats | None, of: Sequence[Role]) -> PowerSeries | None:
            if kw is None:
                return None
            return PowerSeries(
                [None if math.isnan(one) else one for one in kw.tolist()],
                self._coverage(measured.coverage, of).tolist(),
            )

        of_role = {role: made(powers.get(role), [role]) for role in ROLES}
        if sums.grid_is_computed:
            of_role["grid"] = made(sums.grid, (*_BEHIND_THE_METER, *USES))
        return BalanceSeries(
            [from_ms(edge).astimezone(zone) for edge in edges[:-1]],
            **of_role,
            production=made(sums.production, SOURCES),
            consumption=made(sums.consumption, _parts_of_consumption(sums)),
            other=made(sums.other, ROLES),
        )


def _parts_of_consumption(sums: Sums[Any]) -> Sequence[Role]:
    """What consumption is made of: of the measured uses where there is no rest that is not measured."""
    return USES if sums.other is None else (*_BEHIND_THE_METER, "grid")


def _share(rule: Callable[..., float | None], **energies: Energy | None) -> float | None:
    """What the rule makes of energies, if all of them are known."""
    known = {name: energy.kwh for name, energy in energies.items() if energy is not None and energy.kwh is not None}
    return rule(**known) if len(known) == len(energies) else None
