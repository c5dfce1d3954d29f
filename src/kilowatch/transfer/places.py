"""Where backups are: a directory, or a bucket of S3. Each backup is a folder; it counts once its manifest is there."""

import contextlib
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Protocol, cast
from urllib.parse import urlsplit

from kilowatch.errors import Invalid

MANIFEST = "manifest.json"
NAME = re.compile(r"kilowatch-\d{8}T\d{6}Z")
_PART = ".part"


class Place(Protocol):
    """Raises `Invalid`, saying what is to be done, for whatever can't be read or written."""

    def names(self) -> list[str]:
        """The backups that are there, whole, the oldest first."""

    def create(self, name: str, path: str) -> "contextlib.AbstractContextManager[BinaryIO]":
        """A file of a backup that is being made. It is there, durably, when the block ends; the manifest comes last."""

    def finish(self, name: str) -> None:
        """The backup is whole."""

    def read(self, name: str, path: str) -> "contextlib.AbstractContextManager[BinaryIO]":
        """A file of a backup, which can be read from any position."""

    def remove(self, name: str) -> None:
        """A backup, or what there is of one that was not finished."""

    def leftovers(self) -> list[str]:
        """Backups that were never finished."""


def place_at(target: str, environment: Mapping[str, str]) -> Place:
    """The place that a command names: a directory, or `s3://bucket/prefix`."""
    if target.startswith("s3://"):
        return Bucket(target, environment)
    if "://" in target:
        raise Invalid(f"{target} is neither a directory nor `s3://bucket/prefix`.")
    return Directory(Path(target).expanduser().absolute())


def chosen(source: str, environment: Mapping[str, str]) -> tuple[Place, str]:
    """A backup: the one that is named, or the newest of a place that is named."""
    parent, _, name = source.rstrip("/").rpartition("/")
    if NAME.fullmatch(name):
        place = place_at(parent or ("." if "/" not in source else "/"), environment)
        if name not in place.names():
            raise Invalid(f"There is no backup at {source}, or only one that was cut off: it has no {MANIFEST}.")
        return place, name
    place = place_at(source, environment)
    if not (names := place.names()):
        raise Invalid(f"There is no backup at {source}: no folder {NAME.pattern} with a {MANIFEST}.")
    return place, names[-1]


class Directory:
    """Readable by its owner alone. What is being made has another name until it is whole."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def names(self) -> list[str]:
        return sorted(
            entry.name for entry in self._entries() if (entry / MANIFEST).exists() and NAME.fullmatch(entry.name)
        )

    def leftovers(self) -> list[str]:
        names = (entry.name.removesuffix(_PART) for entry in self._entries() if entry.name.endswith(_PART))
        return sorted(name for name in names if NAME.fullmatch(name))  # others' files are none of ours

    def _entries(self) -> list[Path]:
        with self._told("read"):
            return list(self._path.iterdir()) if self._path.exists() else []

    @contextlib.contextmanager
    def create(self, name: str, path: str) -> Iterator[BinaryIO]:
        file = self._part(name) / path
        with self._told("written"):
            for folder in (self._path, *reversed(file.relative_to(self._path).parents[:-1])):
                (self._path / folder).mkdir(mode=0o700, parents=True, exist_ok=True)
            with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as out:
                yield out
                out.flush()
                os.fsync(out.fileno())

    def finish(self, name: str) -> None:
        with self._told("written"):
            part = self._part(name)
            for folder in (*(entry for entry in part.rglob("*") if entry.is_dir()), part):
                _sync(folder)
            part.rename(self._path / name)
            _sync(self._path)

    @contextlib.contextmanager
    def read(self, name: str, path: str) -> Iterator[BinaryIO]:
        with self._told("read"), (self._path / name / path).open("rb") as file:
            yield file

    def remove(self, name: str) -> None:
        whole = self._path / name
        with self._told("removed"):
            if whole.exists():
                # First out of sight, so that what a cut-off removal leaves is not taken for a backup.
                whole.rename(self._part(name))
            shutil.rmtree(self._part(name), ignore_errors=True)

    def _part(self, name: str) -> Path:
        return self._path / f"{name}{_PART}"

    @contextlib.contextmanager
    def _told(self, done: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            where = error.filename or self._path
            raise Invalid(f"{where} can't be {done}: {error.strerror or error}.") from error


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Bucket:
    """A bucket of S3, or of a service that speaks its language: `AWS_ENDPOINT_URL` names it.

    Who asks is said as for all of AWS's tools: `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_PROFILE`, a role.
    """

    def __init__(self, url: str, environment: Mapping[str, str]) -> None:
        parts = urlsplit(url)
        if not parts.netloc:
            raise Invalid(f"{url} names no bucket; it is `s3://bucket/prefix`.")
        self._url = url
        self._root = f"{parts.netloc}/{parts.path.strip('/')}".rstrip("/")
        self._files = _s3(environment)

    def names(self) -> list[str]:
        return [name for name in self._folders() if self._is_whole(name)]

    def leftovers(self) -> list[str]:
        return [name for name in self._folders() if not self._is_whole(name)]

    def _folders(self) -> list[str]:
        from pyarrow.fs import FileSelector

        with self._told("read"):
            entries = self._files.get_file_info(FileSelector(self._root, allow_not_found=True))
        return sorted(entry.base_name for entry in entries if NAME.fullmatch(entry.base_name))

    def _is_whole(self, name: str) -> bool:
        with self._told("read"):
            return bool(self._files.get_file_info(f"{self._root}/{name}/{MANIFEST}").is_file)

    @contextlib.contextmanager
    def create(self, name: str, path: str) -> Iterator[BinaryIO]:
        where = f"{self._root}/{name}/{path}"
        # It would pack what is named `.zst` a second time.
        with self._told("written"), self._files.open_output_stream(where, compression=None) as out:
            yield cast(BinaryIO, out)

    def finish(self, name: str) -> None:
        """The manifest came last: it is whole already."""

    @contextlib.contextmanager
    def read(self, name: str, path: str) -> Iterator[BinaryIO]:
        with self._told("read"), self._files.open_input_file(f"{self._root}/{name}/{path}") as file:
            yield cast(BinaryIO, file)

    def remove(self, name: str) -> None:
        with self._told("removed"), contextlib.suppress(FileNotFoundError):
            if self._is_whole(name):
                self._files.delete_file(f"{self._root}/{name}/{MANIFEST}")
            self._files.delete_dir(f"{self._root}/{name}")

    @contextlib.contextmanager
    def _told(self, done: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise Invalid(f"{self._url} can't be {done}: {error}") from error


def _s3(environment: Mapping[str, str]) -> Any:
    from pyarrow.fs import S3FileSystem

    options: dict[str, Any] = {}
    if endpoint := environment.get("AWS_ENDPOINT_URL_S3") or environment.get("AWS_ENDPOINT_URL"):
        parts = urlsplit(endpoint)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise Invalid("AWS_ENDPOINT_URL must be `https://host[:port]`.")
        options |= {"scheme": parts.scheme, "endpoint_override": parts.netloc + parts.path.rstrip("/")}
    if region := environment.get("AWS_REGION") or environment.get("AWS_DEFAULT_REGION"):
        options["region"] = region
    return S3FileSystem(connect_timeout=10, request_timeout=60, **options)
