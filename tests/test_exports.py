"""A real server that sends millions of readings: its memory stays flat, and a broken answer is seen to be one."""

import http.client
import json
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pytest

from tests.processes import DEADLINE_S, Server, create_admin, wait_until

METRICS, READINGS, AT_ONCE = 5, 600_000, 300_000
WINDOW = "start=2024-01-01T00:00:00Z&end=2025-06-01T00:00:00Z&resolution=raw&limit=all"
MB_ABOVE_IDLE = 200


@dataclass
class Stocked:
    server: Server
    token: str
    path: str
    metrics: list[int]

    @contextmanager
    def ask(self, form: str) -> Iterator[http.client.HTTPResponse]:
        """The answer, of which nothing was read yet; the client leaves at the end."""
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=DEADLINE_S)
        connection.request(
            "GET", f"{self.path}?{WINDOW}&format={form}", headers={"Authorization": f"Bearer {self.token}"}
        )
        try:
            with connection.getresponse() as answer:
                assert answer.status == 200, answer.read()
                yield answer
        finally:
            connection.close()

    def memory_mb(self, name: str) -> int:
        assert self.server.process is not None
        status = Path(f"/proc/{self.server.process.pid}/status").read_text()
        found = re.search(rf"^{name}:\s+(\d+) kB$", status, re.MULTILINE)
        assert found is not None
        return int(found[1]) // 1024

    def forget_peak(self) -> None:
        assert self.server.process is not None
        Path(f"/proc/{self.server.process.pid}/clear_refs").write_text("5")


@pytest.fixture(scope="module")
def stocked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stocked]:
    """A server with three million readings of five metrics, and a subscription to them."""
    directory = tmp_path_factory.mktemp("exports")
    create_admin(directory / "var")
    settings = {"history_sync": "false", "log_level": "info"}
    server = Server(directory / "var", directory / "log", settings=settings).start()
    token = server.sign_in()["access_token"]
    site = server.send("POST", "/sites", {"name": "North", "timezone": "UTC"}, token)["id"]
    kinds = [{"key": f"power_{n}", "quantity": "power", "unit": "kW"} for n in range(METRICS)]
    device = server.send(
        "POST", f"/sites/{site}/devices", {"name": "Meter", "kind": "generic", "metrics": kinds}, token
    )
    metrics = [metric["id"] for metric in device["metrics"]]
    start = pa.scalar(1_704_067_200_000, pa.int64())
    for begin in range(0, READINGS, AT_ONCE):
        times = pa.compute.add(pa.array(range(begin * 60_000, (begin + AT_ONCE) * 60_000, 60_000)), start)
        texts = pa.compute.strftime(times.cast(pa.timestamp("ms", "UTC")), "%Y-%m-%dT%H:%M:%SZ").to_pylist()
        values = [n % 1000 / 8 for n in range(begin, begin + AT_ONCE)]
        for metric in metrics:
            series = {"series": [{"metric_id": metric, "timestamps": texts, "values": values}]}
            report = server.send("POST", "/readings", series, token)
            assert report["accepted"] == AT_ONCE
    made = server.send("POST", "/subscriptions", {"name": "All", "metric_ids": metrics}, token)["id"]
    yield Stocked(server, token, f"/api/v1/subscriptions/{made}/history", metrics)
    assert server.process is not None
    server.process.terminate()
    server.process.wait(DEADLINE_S)


class TestMillionsOfReadings:
    @pytest.mark.parametrize("form", ["json", "csv", "parquet", "arrow"])
    def test_go_out_within_little_memory(self, stocked: Stocked, form: str) -> None:
        stocked.forget_peak()
        idle = stocked.memory_mb("VmRSS")
        size = 0
        with stocked.ask(form) as answer:
            while part := answer.read(1 << 20):
                size += len(part)
        assert size > METRICS * READINGS * (2 if form == "parquet" else 20)
        assert stocked.memory_mb("VmHWM") - idle < MB_ABOVE_IDLE

    def test_are_all_there(self, stocked: Stocked) -> None:
        with stocked.ask("arrow") as answer:
            table = pa.ipc.open_stream(answer.read()).read_all()
        counts = (
            table.group_by("metric_id", use_threads=False).aggregate([("value", "count"), ("value", "sum")]).to_pylist()
        )
        total = READINGS // 1000 * sum(range(1000)) / 8
        assert counts == [
            {"metric_id": metric, "value_count": READINGS, "value_sum": total} for metric in stocked.metrics
        ]

    def test_stop_when_the_client_leaves(self, stocked: Stocked) -> None:
        with stocked.ask("json") as answer:
            assert answer.read(1000).startswith(b'{"start":')
        wait_until(lambda: "the client went away before the answer's end" in said(stocked), "the server notices")

    def test_wait_for_a_slow_client(self, stocked: Stocked) -> None:
        """Many who take nothing: what they are to get is not made."""
        stocked.forget_peak()
        idle = stocked.memory_mb("VmRSS")
        with ExitStack() as asked:
            for _ in range(8):
                asked.enter_context(stocked.ask("json"))
            assert stocked.server.ask("GET", "/health/ready")[0] == 200
            assert stocked.memory_mb("VmHWM") - idle < MB_ABOVE_IDLE

    def test_break_off_when_the_reader_s_right_ends(self, stocked: Stocked) -> None:
        user = {"email": "ada@example.org", "name": "Ada", "password": "a password of Ada"}
        ada = stocked.server.send("POST", "/users", user, stocked.token)["id"]
        site = f"/sites/1/grants/{ada}"
        stocked.server.send("PUT", site, {"role": "standard"}, stocked.token)
        token = stocked.server.sign_in(user["email"], user["password"])["access_token"]
        made = stocked.server.send("POST", "/subscriptions", {"name": "Hers", "metric_ids": stocked.metrics}, token)
        hers = Stocked(stocked.server, token, f"/api/v1/subscriptions/{made['id']}/history", stocked.metrics)
        headers = {"Authorization": f"Bearer {stocked.token}"}
        with hers.ask("json") as answer:
            assert stocked.server.ask("DELETE", f"/api/v1{site}", headers=headers)[0] == 204
            with pytest.raises(http.client.IncompleteRead) as broken:
                answer.read()
        with pytest.raises(json.JSONDecodeError):
            json.loads(broken.value.partial)
        assert "unforeseen error" in said(stocked)


def said(stocked: Stocked) -> str:
    return stocked.server.log.read_text()
