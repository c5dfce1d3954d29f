"""What a client of the deployment notices of workers that die, or are replaced: nothing that it could not mend."""

import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from kilowatch.auth.browsers import SESSION_COOKIES
from tests.cli.test_workers import workers
from tests.deploy.conftest import Deployment
from tests.processes import wait_until

DAY = "2026-03-01"


class Load(threading.Thread):
    """Sends readings one by one through nginx, and asks for the latest, until it is told to stop."""

    def __init__(self, deployment: Deployment, metric: int, *, http2: bool, again: bool = False) -> None:
        super().__init__(daemon=True)
        self._deployment, self._metric, self._http2, self._again = deployment, metric, http2, again
        self._enough = threading.Event()
        self.accepted: list[float] = []
        self.wrong: list[Any] = []
        """Answers to what could be sent once more; with `again`, it was."""
        self.refused_reads: list[Any] = []

    def run(self) -> None:
        with self._deployment.client(http2=self._http2, headers=self._deployment.authorization) as client:
            number = 0
            while not self._enough.is_set():
                number += 1
                while not self._send(client, number) and self._again:
                    pass
                answer = client.get(f"/api/v1/metrics/{self._metric}/latest")
                if answer.status_code != 200:
                    self.refused_reads.append((answer.status_code, answer.text))

    def _send(self, client: httpx2.Client, number: int) -> bool:
        time = f"{DAY}T{number // 3600:02}:{number // 60 % 60:02}:{number % 60:02}Z"
        rows = [{"metric_id": self._metric, "timestamp": time, "value": number}]
        answer = client.post("/api/v1/readings", json={"readings": rows})
        if answer.status_code == 200 and answer.json()["accepted"] == 1:
            self.accepted.append(number)
            return True
        self.wrong.append((answer.status_code, answer.headers.get("retry-after"), answer.text))
        return False

    def end(self) -> None:
        self._enough.set()
        self.join()


@pytest.fixture
def two_workers(deployment: Deployment) -> Iterator[set[int]]:
    wait_until(lambda: len(workers(deployment.server)) == 2, "two workers run")
    yield workers(deployment.server)
    wait_until(lambda: deployment.server.ask("GET", "/health/ready")[0] == 200, "the server is ready again")


def new_metric(deployment: Deployment, site: str) -> int:
    return deployment.server.make_metric(deployment.token, site=site)


def stored(deployment: Deployment, metric: int) -> list[float]:
    window = {"start": f"{DAY}T00:00:00Z", "end": "2026-03-02T00:00:00Z", "resolution": "raw"}
    with deployment.client(headers=deployment.authorization) as client:
        answer = client.get(f"/api/v1/metrics/{metric}/history", params=window)
    assert answer.status_code == 200, answer.text
    found: list[float] = answer.json()["series"][0]["values"]
    return found


class TestARollingRestart:
    def test_loses_no_request(self, deployment: Deployment, two_workers: set[int]) -> None:
        metrics = [new_metric(deployment, f"Rolling {number}") for number in range(2)]
        load = [Load(deployment, metric, http2=bool(number)) for number, metric in enumerate(metrics)]
        for one in load:
            one.start()
        assert deployment.server.process is not None
        deployment.server.process.send_signal(signal.SIGHUP)
        wait_until(
            lambda: not two_workers & workers(deployment.server) and len(workers(deployment.server)) == 2,
            "all workers are others",
        )
        for one in load:
            one.end()
        for one, metric in zip(load, metrics, strict=True):
            assert one.wrong == one.refused_reads == []
            assert len(one.accepted) > 10
            assert stored(deployment, metric) == one.accepted


class TestAWorkerThatIsKilled:
    def test_under_load_fails_no_read_and_loses_nothing_accepted(
        self, deployment: Deployment, two_workers: set[int]
    ) -> None:
        metrics = [new_metric(deployment, f"Killed {number}") for number in range(2)]
        load = [Load(deployment, metric, http2=bool(number), again=True) for number, metric in enumerate(metrics)]
        for one in load:
            one.start()
        for killed in two_workers:
            self._wait_for_more(load)
            os.kill(killed, signal.SIGKILL)
        self._wait_for_more(load)
        for one in load:
            one.end()
        for one, metric in zip(load, metrics, strict=True):
            assert one.refused_reads == []
            assert {(status, wait) for status, wait, _ in one.wrong} <= {(502, "5"), (503, "5")}
            assert stored(deployment, metric) == one.accepted

    def _wait_for_more(self, load: list[Load]) -> None:
        counts = [len(one.accepted) + 20 for one in load]
        wait_until(lambda: all(len(one.accepted) >= count for one, count in zip(load, counts, strict=True)), "more")

    def test_while_it_answers_has_a_read_answered_by_the_next(
        self, deployment: Deployment, two_workers: set[int]
    ) -> None:
        metric = new_metric(deployment, "Read")
        answers: list[httpx2.Response] = []

        def ask() -> None:
            window = f"start={DAY}T00:00:00Z&end=2026-03-02T00:00:00Z&resolution=raw"
            with deployment.client(headers=deployment.authorization) as client:
                answers.append(client.get(f"/api/v1/metrics/{metric}/history?{window}"))

        self._kill_all_while(deployment, two_workers, "SELECT ts, value", ask)
        deployment.clickhouse.go_on()
        assert [answer.status_code for answer in answers] == [200]

    def test_while_it_stores_is_told_and_sending_again_stores_once(
        self, deployment: Deployment, two_workers: set[int]
    ) -> None:
        metric = new_metric(deployment, "Store")
        answers: list[httpx2.Response] = []
        rows = [{"metric_id": metric, "timestamp": f"{DAY}T10:00:00Z", "value": 7}]

        def send() -> None:
            with deployment.client(headers=deployment.authorization) as client:
                answers.append(client.post("/api/v1/readings", json={"readings": rows}))

        self._kill_all_while(deployment, two_workers, "INSERT INTO readings", send)
        (answer,) = answers
        assert (answer.status_code, answer.headers["content-type"]) == (502, "application/problem+json")
        assert answer.headers["retry-after"]
        wait_until(lambda: deployment.server.ask("GET", "/health/ready")[0] == 200, "the server is ready again")
        send()
        assert answers[-1].status_code == 200
        deployment.clickhouse.go_on()  # with the insert of the worker that was killed
        assert stored(deployment, metric) == [7]

    def _kill_all_while(self, deployment: Deployment, ids: set[int], statement: str, ask: Any) -> None:
        """Kill every worker while the history engine takes its time over what one of them asked of it."""
        deployment.clickhouse.fail_next("wait", statement)
        asking = threading.Thread(target=ask, daemon=True)
        asking.start()
        wait_until(lambda: not deployment.clickhouse.faults(), "the statement is under way")
        assert asking.is_alive()
        for process_id in ids:
            os.kill(process_id, signal.SIGKILL)
        asking.join()


class TestPostgresqlThatIsAway:
    def test_is_told_in_order_and_all_goes_on_once_it_is_back(self, deployment: Deployment) -> None:
        metric = new_metric(deployment, "Away")
        rows = [{"metric_id": metric, "timestamp": f"{DAY}T00:00:01Z", "value": 1}]
        with deployment.client(headers=deployment.authorization) as client:

            def send() -> httpx2.Response:
                return client.post("/api/v1/readings", json={"readings": rows})

            deployment.postgres.crash()
            try:
                refused = send()
                assert refused.status_code == 503
                assert refused.headers["content-type"] == "application/problem+json"
                assert int(refused.headers["retry-after"]) > 0
                cookie = f"{SESSION_COOKIES[0]}={'x' * 43}"  # whose session it is has to be looked up
                page = client.get("/sites", headers={"Accept": "text/html", "Cookie": cookie})
                assert (page.status_code, page.headers["content-type"].partition(";")[0]) == (503, "text/html")
                assert client.get("/health/ready").status_code == 503
                assert client.get("/health/live").status_code == 200
            finally:
                deployment.postgres.start_again()
            wait_until(lambda: send().is_success, "readings are accepted again")
            # Of two workers each finds it out by itself.
            wait_until(lambda: all(client.get("/health/ready").status_code == 200 for _ in range(10)), "both are ready")
        assert stored(deployment, metric) == [1]
