"""The files that pages load, served under names that have a hash of what is in them, so that they are kept for ever.

python -m kilowatch.pages.static DIRECTORY    # writes them there, below static/, for a web server to serve itself
"""

import gzip
import hashlib
import json
import sys
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

import structlog
from fastapi import Request, Response

from kilowatch.errors import NotFound

log = structlog.get_logger("kilowatch.pages")

_MEDIA = {
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
    "txt": "text/plain; charset=utf-8",
}
_FOR_EVER = "public, max-age=31536000, immutable"
_ROOM = files("kilowatch") / "pages"
_MANIFEST = "manifest.json"


@dataclass(frozen=True, slots=True)
class Script:
    """What a page loads to run one of the scripts of web/src: addresses."""

    address: str
    parts: tuple[str, ...]
    style: str | None


@dataclass(frozen=True, slots=True)
class _Files:
    """Addresses by the names that templates use, and what is at each served name, with its media type."""

    addresses: dict[str, str]
    scripts: dict[str, Script]
    contents: dict[str, tuple[bytes, str]]


@cache
def _files() -> _Files:
    addresses, contents = {}, {}
    for file in (_ROOM / "files").iterdir():
        stem, _, kind = file.name.rpartition(".")
        if kind in _MEDIA:
            data = file.read_bytes()
            hashed = f"{stem}.{hashlib.sha256(data).hexdigest()[:16]}.{kind}"
            addresses[file.name] = f"/static/{hashed}"
            contents[hashed] = (data, _MEDIA[kind])
    scripts = {}
    built = _ROOM / "built"
    if (built / _MANIFEST).is_file():
        for file in built.iterdir():
            kind = file.name.rpartition(".")[2]
            if kind in _MEDIA:
                contents[file.name] = (file.read_bytes(), _MEDIA[kind])
            if kind == "svg":
                addresses[f"{file.name.partition('.')[0]}.svg"] = f"/static/{file.name}"
        for name, made in json.loads((built / _MANIFEST).read_bytes()).items():
            parts = tuple(f"/static/{part}" for part in made["parts"])
            style = f"/static/{made['style']}" if made["style"] else None
            scripts[name] = Script(f"/static/{made['script']}", parts, style)
    else:
        log.warning("the pages' scripts are not built; pages work without them (scripts/assets builds them)")
    return _Files(addresses, scripts, contents)


def address_of(name: str) -> str:
    return _files().addresses[name]


def land() -> str | None:
    """The address of the land for maps; `None` where it is not built."""
    return _files().addresses.get("land.svg")


def script(name: str) -> Script | None:
    """`None` where the scripts are not built: pages are read and sent without them."""
    return _files().scripts.get(name)


async def serve(_request: Request, name: str) -> Response:
    found = _files().contents.get(name)
    if found is None:
        raise NotFound("There is no such file.")
    data, media = found
    return Response(data, headers={"Cache-Control": _FOR_EVER}, media_type=media)


def write(directory: Path) -> None:
    """Write what is served, each also compressed, where that is smaller (nginx: `gzip_static`)."""
    target = directory / "static"
    target.mkdir(parents=True, exist_ok=True)
    for name, (data, _) in _files().contents.items():
        (target / name).write_bytes(data)
        compressed = gzip.compress(data, 9, mtime=0)
        if len(compressed) < len(data):
            (target / f"{name}.gz").write_bytes(compressed)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
