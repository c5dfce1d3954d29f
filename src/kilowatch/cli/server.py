"""`kilowatch serve` and `kilowatch demo`."""

import contextlib
import resource
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from kilowatch.cli.terminal import err, opened, out
from kilowatch.cli.workers import (
    Lifeline,
    Workers,
    can_have_workers,
    end_with,
    listening,
    refuse_workers,
    release_signals,
)
from kilowatch.config import Settings, load_settings
from kilowatch.kit.logs import configure_logging

if TYPE_CHECKING:
    from kilowatch.services import Kilowatch

Port = Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")]
Host = Annotated[str, typer.Option(help="Address to listen on.")]


def serve(
    host: Host = "127.0.0.1",
    port: Port = 8000,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=64,
            envvar="KILOWATCH_WORKERS",
            help="Processes that serve, and can be replaced. More than one needs PostgreSQL and ClickHouse.",
        ),
    ] = None,
) -> None:
    """Serve the API and the pages. Migrates both stores first; Ctrl-C ends it.

    With workers SIGHUP replaces them one after another, without losing a request.
    """
    from kilowatch.kit import metrics

    settings = load_settings()
    if workers is None or (workers == 1 and not can_have_workers(settings)):
        release_signals()
        with metrics.serving(settings):
            _refuse_taken_port(host, port)
            with opened(settings) as services:
                _serve(services, settings, started=_saying(f"Serving on {_address(host, port)}"), host=host, port=port)
        out.print("Stopped.")
        return
    refuse_workers(settings)
    configure_logging(settings)
    with metrics.serving_several(settings) as counts, listening(host, port) as listener:
        banner = f"Serving on {_address(host, port)} with {workers} worker{'s' if workers > 1 else ''}"
        Workers(workers, listener, started=_saying(banner), environment=counts.environment, ended=counts.forget).run()
    out.print("Stopped.")


def worker(listener: int, lifeline: int) -> None:
    """One of several processes that serve: what `serve --workers` starts."""
    settings = load_settings()
    line = Lifeline(lifeline)
    threading.Thread(target=end_with, args=[line], daemon=True).start()
    with opened(settings) as services, socket.socket(fileno=listener) as shared:
        _serve(services, settings, started=line.say_ready, sockets=[shared], timeout_graceful_shutdown=30)


def demo(
    host: Host = "127.0.0.1",
    port: Port = 8000,
    serve: Annotated[bool, typer.Option("--serve/--no-serve", help="Serve it, or only prepare it.")] = True,
) -> None:
    """Load a portfolio of sites, real and simulated, and serve it. Running it again loses nothing."""
    settings = load_settings()
    if serve:
        _refuse_taken_port(host, port)
    from kilowatch.demo import portfolio
    from kilowatch.kit.metrics import serving

    out.print(f"Preparing the demo in {settings.data_dir}", markup=False)
    with serving(settings) if serve else contextlib.nullcontext(), opened(settings) as services:
        prepared = portfolio.prepare(services, settings, progress=_show_progress)
        address = _address("127.0.0.1" if host in ("0.0.0.0", "::") else host, port)  # noqa: S104 - compared, not bound
        _show_demo(prepared, address)
        if serve:
            banner = f"Serving on {address} (description: {address}/api/docs). Ctrl-C ends it."
            _serve(services, settings, started=_saying(banner), host=host, port=port)
            out.print("Stopped.")


@contextlib.contextmanager
def _show_progress() -> Iterator[Callable[[int, int], None]]:
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    with Progress(*columns, console=err) as bar:
        task = bar.add_task("Loading", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _saying(banner: str) -> Callable[[], None]:
    return lambda: out.print(banner, markup=False)


def _address(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _show_demo(prepared: Any, address: str) -> None:
    from kilowatch.demo import house

    table = Table("email", "password", "who", title="Demo users", title_justify="left")
    for user in prepared.users:
        table.add_row(user.email, user.password, user.may)
    out.print(table)
    first_day = f"start={house.FIRST_DAY}&end=2025-06-02T00:00:00+01:00&resolution=1h".replace("+", "%2B")
    out.print("\nThe powers of a real house, hour by hour:\n", style="bold")
    url = f"{address}/api/v1/subscriptions/{prepared.subscription_id}/history?{first_day}&format=csv"
    header = f'-H "Authorization: Bearer {prepared.api_key}"'
    out.print(f'  curl {header} "{url}"\n', markup=False)
    out.print("A simulated home as it is now, and as it goes on (each five minutes; Ctrl-C ends it):\n", style="bold")
    out.print(
        f"  curl -N {header} {address}/api/v1/subscriptions/{prepared.live_subscription_id}/stream\n", markup=False
    )


def _serve(
    services: "Kilowatch",
    settings: Settings,
    *,
    started: Callable[[], None],
    sockets: list[socket.socket] | None = None,
    **options: Any,
) -> None:
    """Serve until a signal says otherwise. `options` are uvicorn's."""
    from kilowatch.app import create_app
    from kilowatch.cli.web import Server

    _allow_many_connections()
    server = Server(create_app(settings, services=services), started=started, server_header=False, **options)
    # uvicorn has shut down by the time that it passes the signal on, so the end is an orderly one.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt), _control(services, settings):
        server.run(sockets)
    if not server.started:
        raise SystemExit(1)


def _control(services: "Kilowatch", settings: Settings) -> contextlib.AbstractContextManager[object]:
    """Where `kilowatch backup` asks this process, which alone has the embedded history."""
    from kilowatch.transfer.backups import Stores
    from kilowatch.transfer.control import Control

    if services.history is None or not services.history.is_embedded:
        return contextlib.nullcontext()
    stores = Stores(services.database, services.history.contents(), services.now)
    return contextlib.closing(Control(settings.data_dir, stores))


def _allow_many_connections() -> None:
    """As many open files as this process may have: a stream is one, and the usual limit is 1,024."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):  # where it is more than the kernel allows
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _refuse_taken_port(host: str, port: int) -> None:
    """Before the stores are opened, which takes seconds."""
    with listening(host, port):
        pass
