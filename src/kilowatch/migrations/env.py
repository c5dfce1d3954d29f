"""Run by Alembic: inside the transaction that `migrations.upgrade` opened."""

from typing import Literal

from alembic import context

from kilowatch.auth import model as _auth
from kilowatch.facility import model as _facility
from kilowatch.kit import idempotency as _idempotency
from kilowatch.kit.db import Base, Instant
from kilowatch.simulation import model as _simulation
from kilowatch.subscriptions import model as _subscriptions
from kilowatch.webhooks import model as _webhooks


def render(kind: str, item: object, _context: object) -> str | Literal[False]:
    """Migrations spell our types as the plain ones that the database has, since ours may change."""
    return "sa.DateTime(timezone=True)" if kind == "type" and isinstance(item, Instant) else False


TABLES_OF = (_auth, _facility, _idempotency, _simulation, _subscriptions, _webhooks)

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    render_as_batch=True,
    compare_type=True,
    transactional_ddl=True,
    render_item=render,
)
with context.begin_transaction():
    context.run_migrations()
