"""Reads and writes what is remembered of simulated devices."""

from collections.abc import Mapping, Sequence

import msgspec
from sqlalchemy import Connection, Table, and_, bindparam, delete, insert, select, update

from kilowatch.kit.db import fetch_all, insert_missing
from kilowatch.simulation.model import KnownState, Part, PartRow, PlaceRow, Site, SitePlace, SpanRow, StateRow
from kilowatch.simulation.spans import Span, union

_PARTS = [PartRow.__table__.c[name] for name in Part.__struct_fields__]
_PLACES = [PlaceRow.__table__.c[name] for name in SitePlace.__struct_fields__]
_SPANS: Table = SpanRow.__table__  # type: ignore[assignment]  # of a mapped class it is a Table
_CHUNK = 1000


def find_site(connection: Connection, site_id: int) -> Site:
    """The parts and places that are noted of a site, the parts by id; none if it never had a simulated device."""
    parts = connection.execute(select(*_PARTS).where(PartRow.site_id == site_id).order_by(PartRow.id))
    places = select(*_PLACES).where(PlaceRow.site_id == site_id).order_by(PlaceRow.begins)
    found = tuple(Part(**row) for row in parts.mappings())
    return Site(found, tuple(fetch_all(connection, places, SitePlace)))


def put_site(connection: Connection, site_id: int, before: Site, after: Site) -> None:
    """Make the parts and places of a site what they are to be."""
    known = {part.id: part for part in before.parts}
    for part in after.parts:
        values = msgspec.structs.asdict(part)
        part_id = values.pop("id")
        if part_id is None:
            connection.execute(insert(PartRow).values(values))
        elif known.pop(part_id) != part:
            connection.execute(update(PartRow).where(PartRow.id == part_id).values(values))
    if known:
        connection.execute(delete(PartRow).where(PartRow.id.in_(list(known))))
    if before.places != after.places:
        connection.execute(delete(PlaceRow).where(PlaceRow.site_id == site_id))
        places = [msgspec.structs.asdict(place) | {"site_id": site_id} for place in after.places]
        connection.execute(insert(PlaceRow), places)


# ── states ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def states(connection: Connection, site_id: int) -> list[KnownState]:
    """The states that are known of a site's devices."""
    known = select(StateRow.device_id, StateRow.at, StateRow.state, StateRow.is_first)
    return fetch_all(connection, known.where(StateRow.site_id == site_id), KnownState)


def add_states(connection: Connection, site_id: int, new: Sequence[KnownState]) -> None:
    """One that is there already stays as it is."""
    rows = [msgspec.structs.asdict(state) | {"site_id": site_id} for state in new]
    for begin in range(0, len(rows), _CHUNK):
        connection.execute(insert_missing(connection, StateRow), rows[begin : begin + _CHUNK])


def forget_states(connection: Connection, site_id: int, *, after: int) -> None:
    """Forget what was computed of the time after an instant (ms since 1970)."""
    computed = and_(StateRow.site_id == site_id, StateRow.at > after, StateRow.is_first.is_(False))
    connection.execute(delete(StateRow).where(computed))


# ── spans ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def spans(connection: Connection, metric_ids: Sequence[int]) -> dict[int, list[Span]]:
    """The times for which each of the metrics has its readings, sorted and disjoint."""
    found: dict[int, list[Span]] = {metric_id: [] for metric_id in metric_ids}
    for begin in range(0, len(metric_ids), _CHUNK):
        statement = (
            select(SpanRow.metric_id, SpanRow.begins, SpanRow.ends)
            .where(SpanRow.metric_id.in_(metric_ids[begin : begin + _CHUNK]))
            .order_by(SpanRow.metric_id, SpanRow.begins)
        )
        for metric_id, begins, ends in connection.execute(statement):
            found[metric_id].append((begins, ends))
    return found


def add_spans(connection: Connection, new: Mapping[int, Sequence[Span]]) -> None:
    """The metrics have their readings for these times, too."""
    before = spans(connection, list(new))
    gone, longer, more = [], [], []
    for metric_id, added in new.items():
        known = dict(before[metric_id])
        for begins, ends in union([*before[metric_id], *added]):
            there = known.pop(begins, None)
            if there is None:
                more.append({"metric_id": metric_id, "begins": begins, "ends": ends})
            elif there != ends:
                longer.append({"metric": metric_id, "first": begins, "last": ends})
        gone += [{"metric": metric_id, "first": begins} for begins in known]
    this = and_(_SPANS.c.metric_id == bindparam("metric"), _SPANS.c.begins == bindparam("first"))
    if gone:
        connection.execute(delete(_SPANS).where(this), gone)
    if longer:
        connection.execute(update(_SPANS).where(this).values(ends=bindparam("last")), longer)
    if more:
        connection.execute(insert(_SPANS), more)
