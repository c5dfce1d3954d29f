"""`kilowatch init`, `kilowatch user …` and `kilowatch site …`."""

import secrets
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from kilowatch.cli.terminal import opened, out
from kilowatch.config import load_settings, read_secret
from kilowatch.errors import Conflict, Invalid, NotFound

if TYPE_CHECKING:
    from kilowatch.services import Kilowatch

users = typer.Typer(help="Users.", no_args_is_help=True)
sites = typer.Typer(help="Sites.", no_args_is_help=True)

PasswordStdin = Annotated[bool, typer.Option("--password-stdin", help="Read the password from standard input.")]


def init(
    admin: Annotated[str, typer.Option(help="Email of the first administrator.")],
    password_file: Annotated[
        Path | None, typer.Option(help="File with their password. Without it one is made, and printed once.")
    ] = None,
) -> None:
    """Migrate both stores, and make the first administrator if there is none. Running it again changes nothing."""
    from kilowatch.auth.model import OPERATOR
    from kilowatch.auth.schemas import UserIn

    try:
        given = read_secret("--password-file", password_file) if password_file is not None else None
    except ValueError as error:
        raise Invalid(str(error)) from error
    password = given or secrets.token_urlsafe(18)
    user = _validated(UserIn, email=admin, name=admin.split("@", maxsplit=1)[0], password=password, is_admin=True)
    with opened(load_settings()) as services:
        try:
            made = services.accounts.create_first_administrator(OPERATOR, **user.model_dump(exclude={"is_admin"}))
        except Conflict as error:
            raise Conflict(f"{user.email} has an account that is no administrator's; name another --admin.") from error
    out.print("Both stores are up to date.")
    if made is None:
        out.print("There is an administrator already; none was made.")
        return
    out.print(f"Created the administrator {made.email}.", markup=False)
    if given is None:
        out.print(f"Password, shown this once: {password}", markup=False)


@users.command("create")
def user_create(
    email: str,
    name: Annotated[str | None, typer.Option(help="Default: the part of the email before the @.")] = None,
    admin: Annotated[bool, typer.Option("--admin", help="Make an administrator.")] = False,
    password_stdin: PasswordStdin = False,
) -> None:
    """Create a user."""
    from kilowatch.auth.model import OPERATOR
    from kilowatch.auth.schemas import UserIn

    fields = {"email": email, "name": name or email.split("@", maxsplit=1)[0], "is_admin": admin}
    user = _validated(UserIn, **fields, password=_password(from_stdin=password_stdin))
    with opened(load_settings(), with_history=False) as services:
        made = services.accounts.create_user(OPERATOR, **user.model_dump())
    out.print(f"Created user {made.id}: {made.email}{' (administrator)' if admin else ''}")


@users.command("list")
def user_list() -> None:
    """List the users."""
    from kilowatch.auth.model import OPERATOR
    from kilowatch.kit.paging import page_request

    table = Table("id", "email", "name", "administrator")
    with opened(load_settings(), with_history=False) as services:
        cursor: str | None = None
        while True:
            page = services.accounts.list_users(OPERATOR, page_request(500, cursor), words=None)
            for user in page.items:
                table.add_row(str(user.id), user.email, user.name, "yes" if user.is_admin else "")
            cursor = page.next
            if cursor is None:
                break
    out.print(table)


@users.command("set-password")
def user_set_password(email: str, password_stdin: PasswordStdin = False) -> None:
    """Give a user a new password, which signs them out everywhere."""
    from kilowatch.auth.model import OPERATOR
    from kilowatch.auth.schemas import UserChange

    change = _validated(UserChange, password=_password(from_stdin=password_stdin))
    with opened(load_settings(), with_history=False) as services:
        user_id = _user_id(services, email)
        services.accounts.change_user(OPERATOR, user_id, change.model_dump(exclude_unset=True))
    out.print(f"{email} has a new password.")


@sites.command("grant")
def site_grant(
    site: Annotated[str, typer.Argument(help="The site's slug.")],
    email: Annotated[str, typer.Argument(help="The user's email.")],
    role: Annotated[str, typer.Argument(help="standard or technician.")],
) -> None:
    """Give a user a role at a site."""
    from kilowatch.auth.model import OPERATOR
    from kilowatch.auth.schemas import GrantIn

    checked = _validated(GrantIn, role=role)
    with opened(load_settings(), with_history=False) as services:
        user_id = _user_id(services, email)
        try:
            site_id = services.catalogue.site_named(OPERATOR, site).id
        except NotFound as error:
            raise NotFound(f"There is no site with the slug {site!r}.") from error
        services.catalogue.put_grant(OPERATOR, site_id, user_id, checked.role)
    out.print(f"{email} is {role} at {site}.")


def _user_id(services: "Kilowatch", email: str) -> int:
    from kilowatch.auth.model import OPERATOR

    try:
        return services.accounts.user_id_of(OPERATOR, email)
    except NotFound as error:
        raise NotFound(f"There is no user {email!r}; `kilowatch user list` shows them.") from error


def _validated(schema: Any, **fields: Any) -> Any:
    from pydantic import ValidationError

    try:
        return schema(**fields)
    except ValidationError as error:
        details = (f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        raise Invalid("; ".join(details)) from error


def _password(*, from_stdin: bool) -> str:
    if from_stdin:
        return sys.stdin.readline().rstrip("\r\n")
    if not sys.stdin.isatty():
        raise Invalid("There is no terminal to ask for the password; use --password-stdin.")
    password: str = typer.prompt("Password", hide_input=True, confirmation_prompt=True)
    return password
