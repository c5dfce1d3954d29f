"""The files that pages load, served under names that have a hash of what is in them, so that they are kept for ever."""

import hashlib
from importlib.resources import files

from fastapi import Request, Response

from kilowatch.errors import NotFound

_MEDIA = {"css": "text/css; charset=utf-8", "svg": "image/svg+xml"}
_FOR_EVER = "public, max-age=31536000, immutable"


def _read() -> tuple[dict[str, str], dict[str, tuple[bytes, str]]]:
    """Each file's address by its name, and what is at each name with a hash, with its media type."""
    addresses, contents = {}, {}
    for file in (files("kilowatch") / "pages" / "files").iterdir():
        stem, _, kind = file.name.rpartition(".")
        if kind in _MEDIA:
            data = file.read_bytes()
            hashed = f"{stem}.{hashlib.sha256(data).hexdigest()[:16]}.{kind}"
            addresses[file.name] = f"/static/{hashed}"
            contents[hashed] = (data, _MEDIA[kind])
    return addresses, contents


_addresses, _contents = _read()


def address_of(name: str) -> str:
    return _addresses[name]


async def serve(_request: Request, name: str) -> Response:
    if name not in _contents:
        raise NotFound("There is no such file.")
    data, media = _contents[name]
    return Response(data, headers={"Cache-Control": _FOR_EVER}, media_type=media)
