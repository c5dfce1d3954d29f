"""zstd, which Python has from 3.14 on."""

import sys
from typing import Any


def zstd() -> Any:
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd
    return zstd
