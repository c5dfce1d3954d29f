"""Decides what a subscription may hold, and what its owner sees of it today."""

from collections import defaultdict
from collections.abc import Container, Mapping, Sequence, Set
from dataclasses import replace
from typing import Any, NamedTuple

from sqlalchemy import Connection

from kilowatch.auth.model import Credential, Principal, Work
from kilowatch.auth.rights import require_admin
from kilowatch.auth.service import Caller, Gate, Seen
from kilowatch.errors import Fault, Invalid, NotFound, Unauthenticated, said
from kilowatch.facility import service as facility
from kilowatch.facility.model import PlacedMetric
from kilowatch.history.model import HistoryStream, LatestReading, Stop
from kilowatch.history.service import Histories, Query
from kilowatch.kit.idempotency import Once, run_once
from kilowatch.kit.paging import Page, PageRequest, page_of
from kilowatch.live.model import End, Shown, Sight, Source
from kilowatch.subscriptions import store
from kilowatch.subscriptions.model import StoredSubscription, SubscribedMetric, Subscription


class NoSuchSubscription(NotFound):
    def __init__(self) -> None:
        super().__init__(said("There is no such subscription."))


class Subscriptions:
    """A user's subscriptions; nobody else sees them, administrators neither."""

    def __init__(self, gate: Gate, histories: Histories) -> None:
        self._gate = gate
        self._histories = histories

    def list_subscriptions(self, caller: Caller, page: PageRequest) -> Page[Subscription]:
        with self._gate.reading(caller) as work:
            rows = store.page_subscriptions(work.connection, work.who.user_id, page)
            stored = page_of(rows, page, id_of=lambda row: row.id)
            in_reach = _in_reach(work.connection, work.who, stored.items)
            return Page(_subscriptions(work.connection, work.who, in_reach), stored.next)

    def get_subscription(self, caller: Caller, subscription_id: int) -> Subscription:
        with self._gate.reading(caller) as work:
            return _subscription(work, subscription_id)

    def create_subscription(
        self, caller: Caller, *, name: str, metric_ids: list[int], once: Once | None = None
    ) -> Subscription:
        with self._gate.writing(caller) as work:

            def create() -> int:
                _check_metrics(work, metric_ids)
                subscription_id = store.add_subscription(work.connection, work.who.user_id, name, work.now)
                store.put_metrics(work.connection, subscription_id, metric_ids)
                return subscription_id

            # Only the id is kept for a repeated request: what may be seen of the metrics is looked up anew.
            subscription_id = run_once(
                work.connection, create, once=once, user_id=work.who.user_id, answer_type=int, now=work.now
            )
            return _subscription(work, subscription_id)

    def change_subscription(
        self, caller: Caller, subscription_id: int, *, name: str | None, metric_ids: list[int] | None
    ) -> Subscription:
        """Change the name, or all the metrics. Those that are in it already may stay though they are unavailable."""
        with self._gate.writing(caller) as work:
            before = _subscription(work, subscription_id)
            if metric_ids is not None:
                _check_metrics(work, metric_ids, already=before.metric_ids)
                store.put_metrics(work.connection, subscription_id, metric_ids)
            values = {"name": before.name if name is None else name, "updated_at": work.now}
            store.change_subscription(work.connection, subscription_id, values)
            return _subscription(work, subscription_id)

    def delete_subscription(self, caller: Caller, subscription_id: int) -> None:
        with self._gate.writing(caller) as work:
            _stored(work.connection, work.who, subscription_id)
            store.delete_subscription(work.connection, subscription_id)

    def count_of(self, caller: Caller, user_id: int) -> int:
        """How many a user has, for an administrator."""
        with self._gate.reading(caller) as work:
            require_admin(work.who)
            return count(work.connection, user_id=user_id)

    def latest(self, caller: Caller, subscription_id: int) -> list[LatestReading]:
        """The latest reading of each metric, in the subscription's order; nulls for one that is unavailable."""
        return self._latest(*self._metrics(caller, subscription_id))

    def _latest(self, ids: Sequence[int], readable: Mapping[int, PlacedMetric]) -> list[LatestReading]:
        readings = {
            reading.metric_id: reading
            for reading in self._histories.latest([readable[metric_id] for metric_id in ids if metric_id in readable])
        }
        return [readings.get(metric_id) or _unavailable(metric_id) for metric_id in ids]

    def stream(
        self, caller: Caller, subscription_id: int, query: Query, *, stop: Stop = lambda: False
    ) -> HistoryStream:
        """The history of the metrics that may be read, naming those that may not.

        Ends with `NoSuchMetric` or `NoSuchSubscription` once the caller may not read one of them any more.
        """
        ids, readable = self._metrics(caller, subscription_id)
        metrics = [readable[metric_id] for metric_id in ids if metric_id in readable]

        def check() -> None:
            _, still_readable = self._metrics(caller, subscription_id)
            for metric in metrics:
                if metric.id not in still_readable:
                    raise facility.NoSuchMetric(str(metric.id))

        stream = self._histories.stream(metrics, query, check=check, stop=stop)
        return replace(stream, unavailable=tuple(metric_id for metric_id in ids if metric_id not in readable))

    def source(self, caller: Credential, subscription_id: int) -> tuple[Source, Sight]:
        """What a stream of it shows: now, and where to look later.

        Raises:
            Unauthenticated, Forbidden, NoSuchSubscription: it may show nothing.
        """
        seen = self._gate.seeing(caller, _metrics, subscription_id)
        return _source(caller, subscription_id, seen), _sight(seen.found.ids, seen.found.readable)

    def source_of_metrics(self, caller: Credential, references: Sequence[int | str]) -> tuple[Source, Sight]:
        """As `source`, of metrics (ids or `site/device/key`) that are in no subscription.

        Raises:
            Unauthenticated, Forbidden, NoSuchMetric: naming the first that the caller can't see.
        """
        ids = tuple(metric.id for metric in self._histories.addressed(caller, references))
        return _source(caller, ids, self._gate.knowing(caller)), Sight(ids)

    def look_at(self, sources: Sequence[Source]) -> list[Sight | End]:
        """What each may show at this moment. Each caller is looked up once, however many streams are open."""
        shown: dict[Credential, list[Shown]] = defaultdict(list)
        for source in sources:
            shown[source.caller].append(source.shown)
        seen = {caller: self._sights(caller, of_caller) for caller, of_caller in shown.items()}
        return [seen[source.caller][source.shown] for source in sources]

    def latest_of(self, source: Source) -> list[LatestReading]:
        if isinstance(source.shown, int):
            return self.latest(source.caller, source.shown)
        readable = self._gate.seeing(source.caller, facility.readable_metrics, source.shown).found
        return self._latest(source.shown, readable)

    def _sights(self, caller: Credential, shown: Sequence[Shown]) -> Mapping[Shown, Sight | End]:
        try:
            with self._gate.reading(caller) as work:
                return _sights(work.connection, work.who, shown)
        except Unauthenticated as error:
            ended = End("signed_out" if caller.key_hash is None else "key_ended", error.detail)
            return dict.fromkeys(shown, ended)

    def owner(self, operator: Principal, subscription_id: int) -> Principal:
        """Whose subscription it is, for the command line: it is read with its owner's rights."""
        with self._gate.reading(operator) as work:
            require_admin(work.who)
            owner = store.find_owner(work.connection, subscription_id)
            if owner is None:
                raise NoSuchSubscription
            return owner

    def _metrics(self, caller: Caller, subscription_id: int) -> "_Metrics":
        return self._gate.seeing(caller, _metrics, subscription_id).found


class _Metrics(NamedTuple):
    """A subscription's metrics in its order, and those of them that may be read."""

    ids: list[int]
    readable: dict[int, PlacedMetric]


def _metrics(connection: Connection, who: Principal, subscription_id: int) -> _Metrics:
    _stored(connection, who, subscription_id)
    ids = store.metric_ids_of(connection, [subscription_id])[subscription_id]
    return _Metrics(ids, facility.readable_metrics(connection, who, ids))


def _source(caller: Credential, shown: Shown, seen: Seen[Any]) -> Source:
    return Source(caller, shown, user_id=seen.who.user_id, expires_at=seen.who.expires_at)


def _sights(connection: Connection, who: Principal, shown: Sequence[Shown]) -> dict[Shown, Sight | End]:
    owned = store.owned(connection, who.user_id, [one for one in shown if isinstance(one, int)])
    ids: dict[Shown, Sequence[int]] = {one: one for one in shown if isinstance(one, tuple)}
    of_subscriptions = store.metric_ids_of(connection, sorted(owned))
    ids |= {subscription_id: of_subscriptions[subscription_id] for subscription_id in owned}
    readable = facility.readable_metric_ids(connection, who, sorted({m for some in ids.values() for m in some}))
    return {one: _sight_of(one, ids.get(one), who, readable) for one in shown}


def _sight_of(shown: Shown, ids: Sequence[int] | None, who: Principal, readable: Set[int]) -> Sight | End:
    is_in_reach = isinstance(shown, tuple) or who.only_site_id is None
    if ids is None or not (is_in_reach or readable >= set(ids)):
        return End("subscription_gone", NoSuchSubscription().detail)
    return _sight(ids, readable)


def _sight(ids: Sequence[int], readable: Container[int]) -> Sight:
    return Sight(tuple(id_ for id_ in ids if id_ in readable), tuple(id_ for id_ in ids if id_ not in readable))


def _stored(connection: Connection, who: Principal, subscription_id: int) -> StoredSubscription:
    found = store.find_subscription(connection, who.user_id, subscription_id)
    if found is None or not _in_reach(connection, who, [found]):
        raise NoSuchSubscription
    return found


def _in_reach(connection: Connection, who: Principal, stored: Sequence[StoredSubscription]) -> list[StoredSubscription]:
    """For an API key of one site, those subscriptions that name nothing outside of it; all of them for others."""
    if who.only_site_id is None:
        return list(stored)
    ids = store.metric_ids_of(connection, [row.id for row in stored])
    readable = facility.readable_metrics(connection, who, sorted({m for some in ids.values() for m in some}))
    return [row for row in stored if readable.keys() >= set(ids[row.id])]


def _subscription(work: Work, subscription_id: int) -> Subscription:
    return _subscriptions(work.connection, work.who, [_stored(work.connection, work.who, subscription_id)])[0]


def _subscriptions(connection: Connection, who: Principal, stored: Sequence[StoredSubscription]) -> list[Subscription]:
    ids = store.metric_ids_of(connection, [row.id for row in stored])
    every = sorted({metric_id for some in ids.values() for metric_id in some})
    readable = facility.readable_metrics(connection, who, every)
    return [
        Subscription(
            row.id,
            row.name,
            ids[row.id],
            [_subscribed(metric_id, readable.get(metric_id)) for metric_id in ids[row.id]],
            row.created_at,
            row.updated_at,
        )
        for row in stored
    ]


def _subscribed(metric_id: int, metric: PlacedMetric | None) -> SubscribedMetric:
    if metric is None:
        return SubscribedMetric(metric_id, available=False)
    return SubscribedMetric(
        metric_id,
        available=True,
        site=metric.site,
        device=metric.device,
        metric=metric.key,
        name=metric.name,
        quantity=metric.quantity,
        unit=metric.unit,
        behaviour=metric.behaviour,
    )


def _unavailable(metric_id: int) -> LatestReading:
    return LatestReading(metric_id, None, None, None, None, None, None, None, None, stale=True, available=False)


def _check_metrics(work: Work, metric_ids: list[int], *, already: Sequence[int] = ()) -> None:
    """Raises `Invalid` naming each metric that is there twice or can't be read (which is not told from: never was)."""
    known = facility.readable_metrics(work.connection, work.who, metric_ids).keys() | set(already)
    seen: set[int] = set()
    faults = []
    for index, metric_id in enumerate(metric_ids):
        if metric_id in seen:
            faults.append(Fault(f"/metric_ids/{index}", said("This metric is in the list already.")))
        elif metric_id not in known:
            faults.append(Fault(f"/metric_ids/{index}", said("There is no such metric.")))
        seen.add(metric_id)
    if faults:
        raise Invalid("; ".join(f"{f.pointer.strip('/')}: {f.detail}" for f in faults[:3]), faults=tuple(faults[:100]))


def require_own(connection: Connection, who: Principal, subscription_id: int) -> None:
    """Raises `NoSuchSubscription` where it is not the caller's."""
    _stored(connection, who, subscription_id)


def readable_by_owner(connection: Connection, subscription_id: int) -> dict[int, PlacedMetric]:
    """Those metrics of a subscription that its owner may read now."""
    owner = store.find_owner(connection, subscription_id)
    if owner is None:
        return {}
    return facility.readable_metrics(
        connection, owner, store.metric_ids_of(connection, [subscription_id])[subscription_id]
    )


def count(connection: Connection, *, user_id: int | None = None) -> int:
    """How many there are, or how many a user has; nobody's rights are asked."""
    return store.count(connection, user_id=user_id)
