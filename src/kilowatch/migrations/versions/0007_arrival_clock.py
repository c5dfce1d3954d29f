"""When readings were last received, where several processes store."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    table = op.create_table(
        "arrival_clock",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("received_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_arrival_clock")),
    )
    op.bulk_insert(table, [{"id": 1, "received_at": 0}])


def downgrade() -> None:
    op.drop_table("arrival_clock")
