"""A process that folds is killed at each of its writes, one after another: the next goes on, and no answer changes."""

import json
import os
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from itertools import cycle, islice
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).parents[2]
_SENT = datetime(2026, 10, 27, 9, 30, tzinfo=UTC)
_WRITES = 9


def _run(directory: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """This file as a program of its own, as an embedded history has one process at a time."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join((str(_ROOT / "src"), str(_ROOT)))}
    command = [sys.executable, __file__, str(directory), *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)


def _answers(directory: Path) -> Any:
    told = _run(directory, "answers")
    assert told.returncode == 0, told.stderr
    return json.loads(told.stdout.splitlines()[-1])


class TestKilled:
    def test_at_any_write_it_is_gone_on_with(self, tmp_path: Path) -> None:
        """One write further each time: killed after it, or before the next."""
        assert (prepared := _run(tmp_path, "prepare")).returncode == 0, prepared.stderr
        expected = found = _answers(tmp_path)
        killed = 0
        for run, (moment, write) in enumerate(islice(cycle((("after", "0"), ("before", "1"))), _WRITES), 1):
            ended = _run(tmp_path, "fold", moment, write, str(run))
            found = _answers(tmp_path)
            assert found["answers"] == expected["answers"]
            if ended.returncode == 0:
                break
            assert ended.returncode == -signal.SIGKILL, ended.stderr
            killed += 1
        assert 3 <= killed < _WRITES
        assert (expected["raw"], found["raw"]) == (3000, 120)


# ── the program ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _main(directory: str, what: str, moment: str = "", write: str = "0", hours: str = "0") -> None:
    from kilowatch.config import Settings
    from kilowatch.services import Kilowatch
    from tests.conftest import SECRET_KEY, Clock
    from tests.history.test_folding import Keeping

    clock = Clock(_SENT if what == "prepare" else _SENT + timedelta(days=8, hours=int(hours)))
    settings = Settings(data_dir=Path(directory), secret_key=SECRET_KEY)  # type: ignore[arg-type]  # made a SecretStr
    with Kilowatch(settings, clock=clock) as services:
        if what == "prepare":
            _prepare(Keeping.of(services, clock))
        elif what == "fold":
            _fold(Keeping(services, clock, 1, (1, 2)), moment, int(write))
        else:
            _tell(Keeping(services, clock, 1, (1, 2)))


def _prepare(keeping: Any) -> None:
    from tests.history.test_folding import minutes

    keeping.send(minutes("2026-10-26T00:00", 1500, step_s=120), minutes("2026-10-26T00:00", 1500, step_s=120))


def _fold(keeping: Any, moment: str, last: int) -> None:
    """Killed at a write to the history; `last` counts them."""
    engine, left = keeping.store._engine, [last]

    def counted(call: Any) -> Any:
        def do(*arguments: Any, **named: Any) -> Any:
            if left[0] == 0 and moment == "before":
                os.kill(os.getpid(), signal.SIGKILL)
            done = call(*arguments, **named)
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left[0] -= 1
            return done

        return do

    for write in ("insert_apart", "command", "remove"):
        setattr(engine, write, counted(getattr(engine, write)))
    keeping.fold_and_delete()


def _tell(keeping: Any) -> None:
    from tests.history.test_folding import window

    asked = window("2026-10-25T00:00", "2026-10-30T00:00")
    answers = [
        [instants, values.hex(), coverage.hex()]
        for metric, aggregate in zip(keeping.metrics, ("energy", "delta"), strict=True)
        for resolution in ("15m", "1h", "1d")
        for _, instants, values, coverage in [keeping.ask(metric, asked, resolution=resolution, aggregate=aggregate)]
    ]
    print(json.dumps({"answers": [answers, keeping.store.count(keeping.ids)], "raw": keeping.raw_rows()}))  # noqa: T201 - its answer


if __name__ == "__main__":
    _main(*sys.argv[1:])
