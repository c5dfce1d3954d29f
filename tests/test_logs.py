"""The log's form, in a process of its own: what is said, by whom, and in which format."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import environment

CODE = """
import logging, structlog
from kilowatch.config import load_settings
from kilowatch.kit.logs import configure_logging
configure_logging(load_settings())
structlog.contextvars.bind_contextvars(request_id="abc")
structlog.get_logger("kilowatch").info("ours", metric=7)
logging.getLogger("uvicorn.error").warning("theirs %s", "too")
logging.getLogger("urllib3").warning("noise")
"""


@pytest.mark.parametrize(("level", "events"), [("info", ["ours", "theirs too"]), ("warning", ["theirs too"])])
def test_lines_of_ours_and_of_libraries_have_one_form(tmp_path: Path, level: str, events: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CODE],
        env=environment(tmp_path, log_level=level),
        capture_output=True,
        text=True,
        check=True,
    )
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert [line["event"] for line in lines] == events
    assert {line["request_id"] for line in lines} == {"abc"}
    assert all({"level", "timestamp"} <= line.keys() for line in lines)


def test_a_terminal_shows_where_an_error_was_and_no_variables(tmp_path: Path) -> None:
    code = (
        CODE
        + """
def fail():
    password = "hunter" + "2"
    raise RuntimeError("broken")
try:
    fail()
except RuntimeError as error:
    structlog.get_logger("kilowatch").error("unforeseen", exc_info=error)
"""
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment(tmp_path, log_format="console"),
        capture_output=True,
        text=True,
        check=True,
    )
    assert "RuntimeError: broken" in done.stderr
    assert "in fail" in done.stderr
    assert "hunter2" not in done.stderr
