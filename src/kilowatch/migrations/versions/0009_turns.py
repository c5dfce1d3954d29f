"""Turns at storing are counted, so that one that was lost is noticed."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("arrival_clock", sa.Column("turn", sa.BigInteger(), server_default="0", nullable=False))
    op.add_column("arrival_clock", sa.Column("transactions", sa.Text(), server_default="", nullable=False))
    if op.get_bind().dialect.name == "postgresql":
        op.execute("CREATE SEQUENCE IF NOT EXISTS arrival_turns")


def downgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP SEQUENCE IF EXISTS arrival_turns")
    op.drop_column("arrival_clock", "transactions")
    op.drop_column("arrival_clock", "turn")
