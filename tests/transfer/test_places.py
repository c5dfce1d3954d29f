"""A bucket of S3, as `moto` serves it on this machine: the same as a directory, with AWS's own words for who asks."""

from collections.abc import Iterator

import pytest
from moto.server import ThreadedMotoServer

from kilowatch.errors import Invalid
from kilowatch.transfer.manifest import Manifest, read_manifest, write_manifest
from kilowatch.transfer.places import MANIFEST, Bucket, chosen, place_at
from tests.processes import Server, kilowatch

OLD, NEW = "kilowatch-20260105T120000Z", "kilowatch-20260106T120000Z"
EMPTY = Manifest(
    format=1,
    kilowatch="0",
    made_at="2026-01-05T12:00:00+00:00",
    until=0,
    revision="0001",
    history_schema=1,
    sequences={},
    catalogue=[],
    history=[],
)


@pytest.fixture(scope="module")
def environment() -> Iterator[dict[str, str]]:
    """What AWS's tools are told by, for a bucket `backups` on this machine."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    variables = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        from pyarrow.fs import S3FileSystem

        S3FileSystem(endpoint_override=f"{host}:{port}", scheme="http", allow_bucket_creation=True).create_dir(
            "backups"
        )
        yield variables
    server.stop()


class _Draft:
    def __init__(self, place: Bucket, name: str) -> None:
        self.create = lambda path: place.create(name, path)


class TestBucket:
    def test_has_a_backup_once_its_manifest_is_there(self, environment: dict[str, str]) -> None:
        place = Bucket("s3://backups/some/where", environment)
        assert place.names() == []
        for name in (NEW, OLD):
            with place.create(name, "history/readings/2026-01.parquet") as file:
                file.write(b"content")
            assert place.leftovers() == [name]
            write_manifest(_Draft(place, name), EMPTY)
            place.finish(name)
        assert place.names() == [OLD, NEW]
        assert read_manifest(place, NEW) == EMPTY
        with place.read(NEW, "history/readings/2026-01.parquet") as file:
            file.seek(3)
            assert file.read() == b"tent"
        _, name = chosen("s3://backups/some/where", environment)
        assert name == NEW
        assert chosen(f"s3://backups/some/where/{OLD}", environment)[1] == OLD
        place.remove(OLD)
        assert place.names() == [NEW]
        with pytest.raises(Invalid, match=f"{OLD}, or only one that was cut off"):
            chosen(f"s3://backups/some/where/{OLD}", environment)
        with pytest.raises(Invalid, match="can't be read"), place.read(OLD, MANIFEST):
            pass

    def test_says_what_is_wrong(self, environment: dict[str, str]) -> None:
        place = place_at("s3://none-of-ours/x", environment)
        with pytest.raises(Invalid, match="s3://none-of-ours/x can't be written"), place.create(NEW, "file"):
            pass
        with pytest.raises(Invalid, match="AWS_ENDPOINT_URL must be"):
            place_at("s3://backups", {"AWS_ENDPOINT_URL": "nonsense"})

    def test_takes_a_backup_of_a_server_and_gives_it_back(
        self, environment: dict[str, str], running: Server, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        for _ in range(2):
            made = kilowatch("backup", "s3://backups/nightly", "--keep", "1", data_dir=running.data_dir)
            assert made.returncode == 0, made.stderr
        assert len(Bucket("s3://backups/nightly", environment).names()) == 1
        other = tmp_path_factory.mktemp("other") / "var"
        done = kilowatch("restore", "s3://backups/nightly", data_dir=other)
        assert done.returncode == 0, done.stderr
        users = kilowatch("user", "list", data_dir=other)
        assert "admin@example.org" in users.stdout
