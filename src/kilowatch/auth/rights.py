"""Rights as SQL: a join in the statement that fetches the thing, so that there is no moment to forget them in."""

from typing import Any

from sqlalchemy import Select, and_, literal
from sqlalchemy.sql.expression import cast
from sqlalchemy.types import String

from kilowatch.auth.model import GrantRow, Principal, Role, Scope
from kilowatch.errors import Forbidden, said


def visible(statement: Select[Any], who: Principal, site_id: Any) -> Select[Any]:
    """Leave out the rows of sites that `who` has no grant for; `site_id` is the column that has the site's id."""
    if not who.is_admin:
        statement = statement.join(GrantRow, and_(GrantRow.site_id == site_id, GrantRow.user_id == who.user_id))
    if who.only_site_id is not None:
        statement = statement.where(site_id == who.only_site_id)
    return statement


def visible_with_role(statement: Select[Any], who: Principal, site_id: Any) -> Select[Any]:
    """Like `visible`, with the caller's role at the site as one more column, the last."""
    role: Any = cast(literal("technician"), String) if who.is_admin else GrantRow.role
    return visible(statement.add_columns(role), who, site_id)


def require_scope(who: Principal, scope: Scope) -> None:
    """Raises `Forbidden` if the API key that is used was not given this scope."""
    if scope not in who.scopes:
        raise Forbidden(f"This API key does not have the scope `{scope}`; it has: {', '.join(sorted(who.scopes))}.")


def require_technician(role: Role) -> None:
    if role != "technician":
        raise Forbidden(
            said("Only a technician of this site may change it; your role here is `standard`, which reads.")
        )


def require_admin(who: Principal) -> None:
    if not who.is_admin:
        raise Forbidden(said("Only an administrator may do this."))
    if who.only_site_id is not None:
        raise Forbidden("This API key is for one site; administration needs a sign-in, or a key without a site.")
