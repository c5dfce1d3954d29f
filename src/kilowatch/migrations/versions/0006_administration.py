"""The audit log tells of users and of deleted sites too; sign-ins tell of what browser they are."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("audit", table_kwargs={"sqlite_autoincrement": True}) as audit:
        audit.alter_column("site_id", existing_type=sa.Integer(), nullable=True)
        audit.alter_column("object", existing_type=sa.String(length=200), type_=sa.String(length=254))
    op.add_column("sign_ins", sa.Column("agent", sa.String(length=80), nullable=True))


def downgrade() -> None:
    op.drop_column("sign_ins", "agent")
    op.execute("DELETE FROM audit WHERE site_id IS NULL")
    with op.batch_alter_table("audit", table_kwargs={"sqlite_autoincrement": True}) as audit:
        audit.alter_column("object", existing_type=sa.String(length=254), type_=sa.String(length=200))
        audit.alter_column("site_id", existing_type=sa.Integer(), nullable=False)
