"""The command line. Heavy parts are imported by the commands that need them, so that `--help` is quick."""

import typer

from kilowatch.cli.exporting import export
from kilowatch.cli.importing import import_
from kilowatch.cli.moving import backup, databases, histories, restore
from kilowatch.cli.people import init, sites, users
from kilowatch.cli.server import demo, serve, worker
from kilowatch.cli.terminal import err
from kilowatch.cli.upkeep import check, migrate, openapi
from kilowatch.errors import KilowatchError

app = typer.Typer(
    help="Kilowatch, an energy management back-end. Settings come from the environment: KILOWATCH_DATA_DIR and others.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
for command in (serve, demo, migrate, openapi, check):
    app.command()(command)
app.command()(init)
app.command(hidden=True)(worker)
app.add_typer(users, name="user")
app.add_typer(sites, name="site")
app.command("import")(import_)
app.command()(export)
app.command()(backup)
app.command()(restore)
app.add_typer(histories, name="history")
app.add_typer(databases, name="database")


def main() -> None:
    """Carry out what the arguments say."""
    try:
        app()
    except KilowatchError as error:
        err.print("kilowatch: ", style="red", end="")
        err.print(" ".join(error.detail.split()), markup=False)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
