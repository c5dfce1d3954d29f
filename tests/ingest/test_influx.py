"""`/api/v2/write` and `/write`: tokens, answers and errors as InfluxDB has them; what is stored."""

import base64
import gzip
from typing import Any

import httpx2
import pyarrow as pa
import pytest

from tests.conftest import World
from tests.ingest.test_columnar import arrow, parquet, table
from tests.ingest.test_readings import path_of, post, stored

TEN_S = 1767607200
each_path = pytest.mark.parametrize("path", ["/api/v2/write", "/write"])


def write(world: World, body: bytes | str, path: str = "/api/v2/write", **more: Any) -> httpx2.Response:
    """Post lines with an API key of the technician's, which may ingest only, unless `headers` say otherwise."""
    if "headers" not in more:
        more["headers"] = {"Authorization": f"Token {key_of(world)}"}
    return world.client.post(path, content=body, **more)


def key_of(world: World, *scopes: str) -> str:
    key: str = world.technician.post("/me/api-keys", {"name": "k", "scopes": scopes or ["ingest"]}).json()["key"]
    return key


def line(world: World, metric: int, value: str = "1.5", time: str = str(TEN_S)) -> str:
    site, device, key = path_of(world, metric).split("/")
    return f"meter,site={site},device={device} {key}={value} {time}\n"


class TestWriting:
    @each_path
    def test_stores_and_says_nothing(self, world: World, path: str) -> None:
        metric = world.metric()
        answer = write(
            world, line(world, metric), path, params={"precision": "s", "bucket": "b", "org": "o", "db": "d"}
        )
        assert (answer.status_code, answer.content) == (204, b"")
        assert stored(world, metric) == [("2026-01-05T10:00:00.000+00:00", 1.5)]

    def test_takes_gzip(self, world: World) -> None:
        metric = world.metric()
        headers = {"Authorization": f"Token {key_of(world)}", "Content-Encoding": "gzip"}
        body = gzip.compress(line(world, metric).encode())
        assert write(world, body, params={"precision": "s"}, headers=headers).status_code == 204
        assert len(stored(world, metric)) == 1

    def test_stores_the_good_lines_and_tells_of_the_others(self, world: World) -> None:
        metric = world.metric(valid_max=10)
        lines = [line(world, metric), "rubbish\n", line(world, metric, "11", "1"), line(world, metric, "2", "2")]
        answer = write(world, "".join(lines), params={"precision": "s"})
        assert (answer.status_code, answer.headers["content-type"]) == (400, "application/json")
        document = answer.json()
        assert (document["code"], document["line"], set(document)) == ("invalid", 2, {"code", "line", "message"})
        assert document["message"].startswith("partial write: 2 stored, 2 rejected: line 2: Expected fields")
        assert "line 3: 11 is not from" in document["message"]
        assert [value for _, value in stored(world, metric)] == [2.0, 1.5]

    def test_tells_of_a_foreign_metric_as_of_none(self, world: World) -> None:
        foreign = line(world, world.metric(world.south))
        never = "meter,site=never,device=was power=1.5 1767607200\n"
        answers = [write(world, body, params={"precision": "s"}) for body in (foreign, never)]
        texts = [
            answer.text.replace(name, "NAME")
            for answer, name in zip(answers, (foreign.split()[0].split("device=")[1], "was"), strict=True)
        ]
        assert [answer.status_code for answer in answers] == [400, 400]
        assert texts[0].replace("south/", "/") == texts[1].replace("never/", "/")

    def test_keeps_its_message_small(self, world: World) -> None:
        answer = write(world, "rubbish\n" * 50_000)
        assert answer.status_code == 400
        assert "unable to parse: 0 stored, 50,000 rejected" in answer.json()["message"]
        assert "and 49,990 more" in answer.json()["message"]
        assert len(answer.content) < 5_000

    @pytest.mark.parametrize("body", ["", "\n\n", "# nothing\n"])
    def test_of_nothing_is_done(self, world: World, body: str) -> None:
        assert write(world, body).status_code == 204

    @each_path
    def test_refuses_what_can_not_be_read_at_all(self, world: World, path: str) -> None:
        token = {"Authorization": f"Token {key_of(world)}"}
        for status, code, more in (
            (400, "invalid", {"content": b"\xff"}),
            (400, "invalid", {"content": b"", "params": {"precision": "fortnight"}}),
            (400, "invalid", {"content": b"x", "headers": token | {"Content-Encoding": "gzip"}}),
            (415, "invalid", {"content": b"x", "headers": token | {"Content-Encoding": "br"}}),
            (422, "unprocessable entity", {"content": b"", "headers": token | {"Content-Encoding": "x" * 50}}),
            (
                413,
                "request too large",
                {"content": gzip.compress(bytes(100_000_001)), "headers": token | {"Content-Encoding": "gzip"}},
            ),
        ):
            answer = world.client.post(path, **({"headers": token} | more))
            assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
            assert answer.json().get("error") == (answer.json()["message"] if path == "/write" else None)


class TestToken:
    @pytest.mark.parametrize("scheme", ["Token {}", "token {}", "Bearer {}", "Token user:{}", "Basic"])
    @each_path
    def test_may_come_in_any_of_their_ways(self, world: World, path: str, scheme: str) -> None:
        key = key_of(world)
        text = "Basic " + base64.b64encode(f"user:{key}".encode()).decode() if scheme == "Basic" else scheme.format(key)
        answer = write(
            world, line(world, world.metric()), path, headers={"Authorization": text}, params={"precision": "s"}
        )
        assert answer.status_code == 204

    def test_may_be_the_old_password(self, world: World) -> None:
        params = {"u": "user", "p": key_of(world), "precision": "s"}
        body = line(world, world.metric())
        assert write(world, body, "/write", headers={}, params=params).status_code == 204
        assert write(world, body, "/api/v2/write", headers={}, params=params).status_code == 401

    @each_path
    @pytest.mark.parametrize(
        "text", ["", "Token", "Token kw_never", "Basic %", "Basic /w==", "Digest x", "Bearer a.b.c"]
    )
    def test_that_is_none_is_401(self, world: World, path: str, text: str) -> None:
        answer = write(world, b"\xff", path, headers={"Authorization": text})
        assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized")

    def test_without_the_scope_or_the_role_is_403(self, world: World) -> None:
        body = line(world, world.metric())
        reader = {"Authorization": f"Token {key_of(world, 'read')}"}
        standard = {"Authorization": world.standard.http.headers["authorization"]}
        for headers in (reader, standard):
            answer = write(world, body, headers=headers, params={"precision": "s"})
            assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")


class TestTables:
    def test_are_stored(self, world: World) -> None:
        for body, kind in ((parquet, "parquet"), (arrow, "arrow.stream")):
            metric = world.metric()
            rows = table(metric=[path_of(world, metric)])
            report = post(world.technician, body(rows), f"application/vnd.apache.{kind}").json()
            assert report == {"accepted": 1, "rejected": 0, "errors": []}
            packed = gzip.compress(body(rows))
            answer = post(world.technician, packed, f"application/vnd.apache.{kind}", content_encoding="gzip")
            assert answer.json()["accepted"] == 1
            assert stored(world, metric) == [("2026-01-05T10:00:00.000+00:00", 1.5)]

    def test_whose_metrics_are_all_missing_or_unknown_are_reported(self, world: World) -> None:
        for name, code in ((None, "missing_metric"), ("a/b/c", "unknown_metric")):
            body = arrow(table(metric=pa.array([name], pa.string()), unit=["kW"]))
            report = post(world.technician, body, "application/vnd.apache.arrow.stream").json()
            assert (report["accepted"], report["errors"][0]["code"]) == (0, code)

    def test_that_can_not_be_read_are_400_or_413(self, world: World) -> None:
        for kind in ("parquet", "arrow.stream"):
            assert post(world.technician, b"rubbish", f"application/vnd.apache.{kind}").status_code == 400
