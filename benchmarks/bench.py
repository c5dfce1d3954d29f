"""Takes the measurements: loads the data over the API as gateways would, asks as users would."""

import fnmatch
import http.client
import itertools
import json
import random
import sqlite3
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import numpy as np

from benchmarks import readings
from benchmarks.driver import Api, Lane, Outcome, Refused, drive, lanes
from benchmarks.listening import Gateway, hear, listening
from benchmarks.portfolio import Portfolio
from benchmarks.progress import Progress
from benchmarks.readings import DAY_MS, MINUTE_MS, SECOND_MS, Block, Metric, blocks, iso_times
from benchmarks.scale import BATCH, LISTENED, Scale
from benchmarks.server import Server, machine_cpu_s
from benchmarks.works import WORKS, Figure

ARROW, CSV, JSON = "application/vnd.apache.arrow.stream", "text/csv", "application/json"
_CLIENTS, _GATEWAYS = 8, 64
_PACE = 100_000
_MOST_READS_S = 20
_MOST_SINGLES_S = 120
_MOST_TOGETHER = 500
_WHOLE_YEAR_LIMIT = 1_000_000
Floors = dict[str, dict[str, float]]


class Bench:
    """A server, its portfolio, and the figures so far."""

    def __init__(
        self,
        server: Server,
        portfolio: Portfolio,
        scale: Scale,
        *,
        floors: Floors,
        only: str,
        report: Callable[[Figure], None],
    ) -> None:
        self._server = server
        self._portfolio = portfolio
        self._scale = scale
        self._floors = floors
        self._only = only
        self._report = report
        self._api = Api(server.port, portfolio.key)
        self._random = random.Random(2)
        self._end = readings.day_start(datetime.now(UTC))
        self._start = self._end - scale.days * DAY_MS
        self._scratch_clock = self._end - 4 * 365 * DAY_MS
        self._cores: dict[str, float] = {}
        self.figures: list[Figure] = []

    def run(self) -> None:
        start_ms = self._server.start() * 1000
        if self._wants("start"):
            self._record("start", p50_ms=start_ms, p99_ms=start_ms, more={"idle_rss_mb": self._server.rss_mb()})
        if self._wants("latest_*", "ingest_arrow", "hourly_*", "daily_*", "day_*", "year_*", "export_*"):
            self._load_a_hundredth()
            self._server.settle(most_s=self._scale.settle_s)
            self._measure_latest("_short")
            self._load_the_rest()
        self._measure_formats()
        self._server.settle(most_s=self._scale.settle_s)
        self._measure_buckets()
        self._measure_raw()
        self._measure_latest_of_one()
        self._measure_latest("")
        self._measure_page()
        self._measure_while_ingest()
        self._measure_exports()
        self._measure_singles()
        self._measure_streams()
        self._measure_steady()

    # ── data ──

    def _loads(self, given: Iterable[Block]) -> list[bytes]:
        return [self._api.request("POST", "/readings", readings.arrow_body(block), ARROW) for block in given]

    def _load_a_hundredth(self) -> None:
        """Of the history that there will be; all of it newest at the same moment, so that the same is asked later."""
        minutes = self._scale.days * DAY_MS // MINUTE_MS
        wide = max(1, self._scale.wide_readings // 100)
        for metrics, total, first in (
            (self._portfolio.year, minutes, minutes // 100),
            (self._portfolio.day, DAY_MS // MINUTE_MS, DAY_MS // MINUTE_MS // 100),
            (self._portfolio.wide, self._scale.wide_readings, wide),
        ):
            begin = self._end - total * MINUTE_MS
            for group in _device_by_device(metrics):
                self._send("load of a hundredth", self._loads(blocks(group, begin, readings=first)))

    def _load_the_rest(self) -> None:
        minutes = self._scale.days * DAY_MS // MINUTE_MS
        begin = self._start + minutes // 100 * MINUTE_MS
        given = self._loads(blocks(self._portfolio.year, begin, readings=minutes - minutes // 100))
        outcome = self._send(f"load of {self._scale.span}", given)
        if self._wants("ingest_arrow"):
            self._record_ingest("ingest_arrow", outcome, (minutes - minutes // 100) * len(self._portfolio.year))
        for metrics, total in (
            (self._portfolio.day, DAY_MS // MINUTE_MS),
            (self._portfolio.wide, self._scale.wide_readings),
        ):
            if metrics is self._portfolio.wide and not self._wants("latest_wide"):
                continue
            first = max(1, total // 100)
            at = self._end - (total - first) * MINUTE_MS
            given = [
                body
                for group in _device_by_device(metrics)
                for body in self._loads(blocks(group, at, readings=total - first))
            ]
            self._send("load of the rest", given)
        self._server.settle(most_s=self._scale.settle_s)

    def _send(self, what: str, requests: list[bytes]) -> Outcome:
        return self._drive(what, lanes(iter(requests), clients=_CLIENTS, expect=b'"rejected":0,'), len(requests))

    def _scratch_blocks(self, batches: int, *, step: int = MINUTE_MS) -> Iterator[Block]:
        """The next readings of the scratch metrics: later than all before."""
        count = batches * BATCH // len(self._portfolio.scratch)
        begin = self._scratch_clock
        self._scratch_clock += count * step
        return blocks(self._portfolio.scratch, begin, readings=count, step=step)

    # ── ingest ──

    def _measure_formats(self) -> None:
        forms: tuple[tuple[str, Callable[[Block], bytes], str, str], ...] = (
            ("ingest_columns", readings.columns_body, JSON, "/readings"),
            ("ingest_rows", readings.rows_body, JSON, "/readings"),
            ("ingest_lines", readings.lines_body, "text/plain", "/api/v2/write?bucket=b&org=o&precision=ms"),
            ("ingest_csv", readings.csv_body, CSV, "/readings"),
        )
        for key, body, media, path in forms:
            if not self._wants(key):
                continue
            with Progress(f"bodies for {key}"):
                given = [
                    self._api.request("POST", path, body(block), media)
                    for block in self._scratch_blocks(self._scale.batches)
                ]
            expect = b"" if key == "ingest_lines" else f'{{"accepted":{BATCH},"rejected":0'.encode()
            outcome = self._drive(key, lanes(iter(given), clients=_CLIENTS, expect=expect), len(given))
            self._record_ingest(key, outcome, len(given) * BATCH)

    def _record_ingest(self, key: str, outcome: Outcome, count: int, **more: Any) -> None:
        self._record_outcome(key, outcome, rate=count / outcome.took_s, **more)

    def _measure_singles(self) -> None:
        if not self._wants("ingest_single"):
            return
        count, metrics = self._scale.singles, self._portfolio.scratch
        steps = count // len(metrics)
        times = self._scratch_clock + 10 * SECOND_MS * np.arange(steps, dtype=np.int64)
        self._scratch_clock = int(times[-1]) + MINUTE_MS
        texts = iso_times(times)
        given = [
            self._api.request("POST", "/readings", _one_row(metric, text, value))
            for text, values in zip(
                texts, np.stack([readings.power_kw(m.id, times) for m in metrics], 1).tolist(), strict=True
            )
            for metric, value in zip(metrics, values, strict=True)
        ]
        parts = [self._server.active_parts()]
        requests = _for_a_while(given, most_s=_MOST_SINGLES_S)
        outcome = self._drive(
            "ingest_single",
            lanes(requests, clients=_GATEWAYS, expect=b'{"accepted":1,"rejected":0'),
            len(given),
            sample=lambda: parts.append(self._server.active_parts()),
        )
        parts.append(self._server.active_parts())
        half = len(parts) // 2
        steady = max(parts[half:]) <= max(parts[: half + 1]) * 1.25 + 5
        done = len(outcome.latencies)
        stopped = f"stopped after {_MOST_SINGLES_S} s with {done:,} requests; " if done < len(given) else ""
        self._record_outcome(
            "ingest_single",
            outcome,
            also=steady and not stopped,
            note=f"{stopped}parts: {parts[0]} before, {max(parts)} at most, {parts[-1]} after",
            more={"parts_before": parts[0], "parts_most": max(parts), "parts_after": parts[-1]},
        )

    def _measure_steady(self) -> None:
        if not self._wants("ingest_steady"):
            return
        memory = [self._server.rss_mb()]
        sent = 0
        with Progress("bodies for ingest_steady"):
            make = self._moving_batches()

        def requests() -> Iterator[bytes]:
            nonlocal sent
            until = time.perf_counter() + self._scale.steady_s
            while time.perf_counter() < until:
                yield next(make)
                sent += 1

        expect = f'{{"accepted":{BATCH},"rejected":0'.encode()
        given = lanes(requests(), clients=_CLIENTS, expect=expect)
        outcome = self._drive("ingest_steady", given, 0, sample=lambda: memory.append(self._server.rss_mb()))
        memory.append(self._server.rss_mb())
        quarter = max(1, len(memory) // 4)
        early, late = (statistics.mean(part) for part in (memory[quarter : 2 * quarter + 1], memory[-quarter:]))
        self._record_ingest(
            "ingest_steady",
            outcome,
            sent * BATCH,
            also=late < early * 1.15,
            note=f"server's memory: {memory[0]:.0f} MB before, {max(memory):.0f} at most, {memory[-1]:.0f} at the end",
            more={"rss_start_mb": memory[0], "rss_most_mb": max(memory), "rss_end_mb": memory[-1]},
        )

    def _moving_batches(self) -> Iterator[bytes]:
        """Batches a second apart a reading, without end: the same curves, later and later."""
        given = list(self._scratch_blocks(16, step=SECOND_MS))
        templates = [readings.Moving(block) for block in given]
        span = 16 * BATCH // len(self._portfolio.scratch) * SECOND_MS
        return (
            self._api.request("POST", "/readings", template.later(turn * span), ARROW)
            for turn in itertools.count()
            for template in templates
        )

    # ── latest ──

    def _measure_latest(self, when: str) -> None:
        both, wide = self._portfolio.both_subscription, self._portfolio.wide_site_id
        few = max(5, self._scale.cold // 5)
        for key, path, count, expected in (
            (f"latest_100{when}", f"/subscriptions/{both}/latest", self._scale.cold, 100),
            (f"latest_wide{when}", f"/sites/{wide}/latest", few, self._scale.wide_metrics),
        ):
            if self._wants(key):
                items = self._json(path)["items"]
                assert len(items) == expected and all(item["value"] is not None for item in items), key
                self._measure_gets(key, [path] * count)

    def _measure_latest_of_one(self) -> None:
        if self._wants("latest_1"):
            paths = itertools.cycle(f"/metrics/{metric.id}/latest" for metric in self._portfolio.year)
            self._measure_gets("latest_1", list(itertools.islice(paths, self._scale.requests)), clients=_CLIENTS)

    # ── streams ──

    def _measure_streams(self) -> None:
        """Each device of the wide site is a gateway, which sends a reading of each of its metrics once a second."""
        if not self._wants("stream"):
            return
        metrics, count = self._portfolio.wide, self._scale.listeners * LISTENED
        devices = [metrics[first : min(first + 500, count)] for first in range(0, count, 500)]
        idle = self._server.rss_mb()
        with (
            listening(self._api, self._portfolio.listened, metrics=LISTENED) as listeners,
            Progress("stream") as progress,
        ):
            each = (self._server.rss_mb() - idle) / len(listeners) * 1024
            gateways = []
            for n, device in enumerate(devices):
                theirs = listeners[n * 500 // LISTENED : (n + 1) * 500 // LISTENED]
                gateways.append(Gateway(self._seconds(device), theirs))
            with self._watched_cpu():
                heard = hear(self._api, gateways, tick=lambda done: progress(done, self._scale.listen_s))
        answer, sending = Outcome(latencies=heard.after_answer), Outcome(latencies=heard.after_sending)
        late_ms = answer.percentile_ms(0.99)
        self._record(
            "stream",
            rate=heard.events / heard.took_s,
            p50_ms=sending.percentile_ms(0.5),
            p99_ms=sending.percentile_ms(0.99),
            also=late_ms < 100,
            note=f"after the answer: p99 {late_ms:.0f} ms; {self._cores['server_cores']:.2f} cores for ingest and "
            f"streams, {each:.0f} KB a client",
            more={"requests": len(heard.after_sending), "client_kb": each, "after_answer_p99_ms": late_ms}
            | self._cores,
        )

    def _seconds(self, metrics: Sequence[Metric]) -> list[bytes]:
        """A gateway's requests: one for each second, as JSON rows."""
        given = blocks(metrics, self._end, readings=self._scale.listen_s, step=SECOND_MS, size=len(metrics))
        return [self._api.request("POST", "/readings", readings.rows_body(block)) for block in given]

    # ── windows ──

    def _window(self, begin: int, end: int) -> str:
        start, stop = iso_times(np.array([begin, end], np.int64))
        return f"start={start}&end={stop}"

    def _day_path(self, metric: Metric, day: int) -> str:
        begin = self._start + day * DAY_MS
        return f"/metrics/{metric.id}/history?{self._window(begin, begin + DAY_MS)}&resolution=raw"

    def _measure_buckets(self) -> None:
        subscription, window = self._portfolio.year_subscription, self._window(self._start, self._end)
        base = f"/subscriptions/{subscription}/history?{window}&timezone={quote('Europe/Berlin')}"
        for name, path, buckets in (
            ("hourly", f"{base}&resolution=1h", self._scale.days * 24),
            ("daily", f"{base}&resolution=1d&aggregate=energy", None),
        ):
            if not self._wants(f"{name}_*"):
                continue
            first = Outcome()
            for _ in range(max(1, self._scale.restarts)):
                self._restart()
                [once] = self._drive_all(f"{name}_cold", [Lane(iter([self._api.get(path)]), Outcome())], 1)
                first.latencies += once.latencies
                first.ended += once.took_s
            self._record_outcome(f"{name}_cold", first, note=f"starts: {self._scale.restarts}")
            series = self._json(path)["series"]
            assert len(series) == len(self._portfolio.year), name
            if buckets is not None:
                assert all(len(one["values"]) == buckets and None not in one["values"] for one in series), name
            self._measure_gets(f"{name}_again", [path] * max(3, self._scale.cold // 20), warm=0)

    def _measure_raw(self) -> None:
        if not self._wants("day_cold", "day_hot", "year_*"):
            return
        self._restart()
        half = len(self._portfolio.year) // 2
        days = [(metric, day) for metric in self._portfolio.year[:half] for day in range(self._scale.days)]
        cold = [self._day_path(*pair) for pair in self._random.sample(days, self._scale.cold)]
        self._expect_points(cold[0], DAY_MS // MINUTE_MS)
        self._measure_gets("day_cold", cold[1:], warm=0)
        self._measure_gets("day_hot", [cold[0]] * self._scale.cold)
        points = self._scale.days * DAY_MS // MINUTE_MS
        some = iter(self._portfolio.year[half:])
        for form in ("json", "arrow"):
            metrics = list(itertools.islice(some, half // 2))
            paths = [
                f"/metrics/{metric.id}/history?{self._window(self._start, self._end)}"
                f"&resolution=raw&limit={_WHOLE_YEAR_LIMIT}&format={form}"
                for metric in metrics
            ]
            self._measure_gets(f"year_{form}_cold", paths, warm=0)
            if form == "json":
                self._expect_points(paths[0], points)
            self._measure_gets(f"year_{form}_again", paths * 3, warm=0)

    def _measure_while_ingest(self) -> None:
        if not self._wants("day_while_ingest"):
            return
        duration = min(15.0, self._scale.steady_s)
        given = iter(self._loads(self._scratch_blocks(int(2 * duration * _PACE / BATCH) + 2)))
        ingest = Outcome(expect=f'{{"accepted":{BATCH},"rejected":0'.encode())
        asked = Outcome()
        sender = Lane(given, ingest, every_s=BATCH / _PACE, background=True)

        def windows() -> Iterator[bytes]:
            until = time.perf_counter() + duration
            while time.perf_counter() < until:
                metric, day = self._random.choice(self._portfolio.year), self._random.randrange(self._scale.days)
                yield self._api.get(self._day_path(metric, day))

        requests = windows()
        self._drive_all("day_while_ingest", [sender, *(Lane(requests, asked) for _ in range(_CLIENTS))], 0)
        reached = len(ingest.latencies) * BATCH / asked.took_s
        self._record_outcome(
            "day_while_ingest",
            asked,
            also=reached > 0.95 * _PACE if duration > 5 else None,
            note=f"ingest ran at {reached:,.0f} readings/s, p99 {ingest.percentile_ms(0.99):.0f} ms",
            more={"ingest_rate": reached, "ingest_p99_ms": ingest.percentile_ms(0.99)},
        )

    def _measure_exports(self) -> None:
        subscription, window = self._portfolio.year_subscription, self._window(self._start, self._end)
        count = self._scale.days * DAY_MS // MINUTE_MS * len(self._portfolio.year)
        for form in ("csv", "arrow"):
            key = f"export_{form}"
            if not self._wants(key):
                continue
            self._restart()
            path = f"/subscriptions/{subscription}/history?{window}&resolution=raw&limit=all&format={form}"
            idle = self._server.rss_mb()
            self._server.forget_peak()
            [outcome] = self._drive_all(key, [Lane(iter([self._api.get(path)]), Outcome())], 0)
            above, first = self._server.peak_mb() - idle, outcome.first_bytes[0]
            assert outcome.body_bytes > count * 16, "fewer bytes than a time and a value each can't be all"
            self._record_ingest(
                key,
                outcome,
                count,
                also=above < 300 and first < 1,
                note=f"{outcome.body_bytes / 1e6:,.0f} MB, first byte after {first * 1000:.0f} ms, "
                f"{above:.0f} MB of memory above idle",
                more={"first_byte_ms": first * 1000, "above_idle_mb": above, "idle_mb": idle},
            )

    # ── catalogue ──

    def _measure_page(self) -> None:
        """Each client is another user, who goes through the pages of the large sites that they may see."""
        if not self._wants("page"):
            return
        each = max(10, self._scale.requests // _CLIENTS)
        outcome = Outcome()
        given, readers = [], self._portfolio.readers[:_CLIENTS]
        for reader in readers:
            api = Api(self._server.port, reader.key)
            pages = [api.get(f"/sites/{site_id}/devices?limit=50") for site_id in reader.site_ids]
            given.append(Lane(itertools.islice(itertools.cycle(pages), each), outcome))
        status, answer = self._ask("GET", f"/sites/{readers[0].site_ids[0]}/devices?limit=50", key=readers[0].key)
        assert status == 200 and len(json.loads(answer)["items"]) == 50, answer[:300]
        self._floors.setdefault("page", self._page_floor())
        self._drive("page", given, each * len(given))
        self._record_outcome("page", outcome)

    def _page_floor(self) -> dict[str, float]:
        """The joined statement straight on the SQLite file, in one thread."""
        sql = """SELECT devices.* FROM api_keys JOIN grants ON grants.user_id = api_keys.user_id
            JOIN devices ON devices.site_id = grants.site_id WHERE api_keys.name = 'Bench' AND api_keys.user_id = ?
            AND devices.site_id = ? ORDER BY devices.id LIMIT 51"""
        connection = sqlite3.connect(f"file:{self._server.directory / 'kilowatch.sqlite'}?mode=ro", uri=True)
        pairs = connection.execute(
            "SELECT user_id, site_id FROM grants WHERE site_id IN "
            "(SELECT site_id FROM devices GROUP BY site_id HAVING count(*) > 50)"
        ).fetchall()
        took = []
        for pair in itertools.islice(itertools.cycle(pairs), 1_000):
            began = time.perf_counter()
            assert len(connection.execute(sql, pair).fetchall()) > 50
            took.append(time.perf_counter() - began)
        connection.close()
        p50 = statistics.median(took)
        return {"rate": len(took) / sum(took), "p50_ms": p50 * 1000}

    # ── measuring ──

    def _wants(self, *patterns: str) -> bool:
        """Whether one of the works that these patterns name was asked for."""
        wanted = named(self._only)
        return any(fnmatch.filter(wanted, pattern) for pattern in patterns)

    def _measure_gets(self, key: str, paths: Sequence[str], *, clients: int = 1, warm: int = 5) -> None:
        if not self._wants(key):
            return
        if warm:
            self._drive_all(key, lanes((self._api.get(path) for path in paths[:warm]), clients=clients), 0)
        requests = [self._api.get(path) for path in paths]
        outcome = self._drive(key, lanes(_for_a_while(requests), clients=clients), len(paths))
        self._record_outcome(key, outcome)

    def _drive(
        self, what: str, given: Sequence[Lane], total: int, *, sample: Callable[[], object] | None = None
    ) -> Outcome:
        [outcome] = self._drive_all(what, given, total, sample=sample)
        return outcome

    def _drive_all(
        self, what: str, given: Sequence[Lane], total: int, *, sample: Callable[[], object] | None = None
    ) -> list[Outcome]:
        with Progress(what) as progress:

            def tick() -> None:
                progress(len(given[-1].outcome.latencies), total)
                if sample is not None:
                    sample()

            with self._watched_cpu():
                return drive(self._server.port, given, tick=tick)

    @contextmanager
    def _watched_cpu(self) -> Iterator[None]:
        """Keep how many cores the server, this process and all others had: what others took is missing here."""

        def used() -> Sequence[float]:
            server, driver = self._server.cpu_s(), time.process_time()
            return time.perf_counter(), server, driver, max(0.0, machine_cpu_s() - server - driver)

        before = used()
        yield
        took, *spent = (now - then for now, then in zip(used(), before, strict=True))
        names = ("server_cores", "driver_cores", "other_cores")
        self._cores = {name: cpu / took for name, cpu in zip(names, spent, strict=True)}

    def _restart(self) -> None:
        """A fresh process that has answered once, about something else."""
        if self._scale.restarts:
            self._server.restart()
        metric = self._portfolio.scratch[0]
        window = self._window(self._end - 5 * 365 * DAY_MS, self._end - 5 * 365 * DAY_MS + DAY_MS)
        for resolution in ("raw", "1h"):
            self._json(f"/metrics/{metric.id}/history?{window}&resolution={resolution}")

    def _ask(
        self, method: str, path: str, body: bytes = b"", media: str = JSON, *, key: str | None = None
    ) -> tuple[int, bytes]:
        """One request on a connection of its own, outside of the clock."""
        connection = http.client.HTTPConnection("127.0.0.1", self._server.port, timeout=300)
        headers = {"Authorization": f"Bearer {key or self._portfolio.key}", "Content-Type": media}
        connection.request(method, f"/api/v1{path}", body or None, headers)
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        return answer.status, content

    def _json(self, path: str) -> Any:
        status, answer = self._ask("GET", path)
        if status != 200:
            raise Refused(status, answer)
        return json.loads(answer)

    def _expect_points(self, path: str, points: int) -> None:
        [series] = self._json(path)["series"]
        assert len(series["timestamps"]) == len(series["values"]) == points, f"{path}: not {points} points"

    # ── results ──

    def _record_outcome(
        self,
        key: str,
        outcome: Outcome,
        *,
        rate: float | None = None,
        also: bool | None = None,
        note: str = "",
        more: dict[str, Any] | None = None,
    ) -> None:
        if not self._wants(key):
            return
        self._record(
            key,
            rate=rate or len(outcome.latencies) / outcome.took_s,
            p50_ms=outcome.percentile_ms(0.5),
            p99_ms=outcome.percentile_ms(0.99),
            also=also,
            note=note,
            more={"requests": len(outcome.latencies)} | self._cores | (more or {}),
        )

    def _record(
        self,
        key: str,
        *,
        rate: float | None = None,
        p50_ms: float | None = None,
        p99_ms: float | None = None,
        also: bool | None = None,
        note: str = "",
        more: dict[str, Any] | None = None,
    ) -> None:
        work, scale = WORKS[key], self._scale
        text = work.text.format(
            span=scale.span,
            wide=scale.wide_metrics,
            sites=scale.sites,
            devices=scale.devices,
            users=scale.users,
            singles=scale.singles,
            listeners=scale.listeners,
            steady_s=scale.steady_s,
        )
        figure = Figure(key, text, work.unit, rate, p50_ms, p99_ms, note=note, more=more or {})
        if work.target is not None:
            figure.target = str(work.target)
            if p50_ms is not None and scale.name == "full":
                figure.met = also is not False and work.target.holds(rate=rate, p50_ms=p50_ms, p99_ms=p99_ms)
        if work.floor is not None and p50_ms is not None:
            self._compare(figure, *work.floor)
        self.figures.append(figure)
        self._report(figure)

    def _compare(self, figure: Figure, floor: str, measure: str) -> None:
        if floor not in self._floors:
            return
        figure.floor = self._floors[floor][measure]
        own = figure.rate if measure == "rate" else figure.p50_ms
        assert own is not None
        figure.ratio = figure.floor / own if measure == "rate" else own / figure.floor


def _for_a_while(requests: Iterable[bytes], *, most_s: float = _MOST_READS_S) -> Iterator[bytes]:
    """The first request, and those of the others that can begin within that time from then on."""
    until = 0.0
    for request in requests:
        until = until or time.perf_counter() + most_s
        if time.perf_counter() > until:
            return
        yield request


def named(patterns: str) -> list[str]:
    """The keys of the works that these patterns, with commas between them, name."""
    return [key for key in WORKS if any(fnmatch.fnmatchcase(key, pattern) for pattern in patterns.split(","))]


def _one_row(metric: Metric, time_text: str, value: float) -> bytes:
    return f'{{"readings":[{{"metric_id":{metric.id},"timestamp":"{time_text}","value":{value!r}}}]}}'.encode()


def _device_by_device(metrics: Sequence[Metric]) -> Iterator[Sequence[Metric]]:
    """The metrics in groups that one gateway sends together."""
    return (metrics[first : first + _MOST_TOGETHER] for first in range(0, len(metrics), _MOST_TOGETHER))
