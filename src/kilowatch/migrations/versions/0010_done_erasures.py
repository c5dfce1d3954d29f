"""Notes of deletions stay for a while once these are done, for backups that had begun before."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("window_erasures", sa.Column("done_at", sa.DateTime(timezone=True), nullable=True))


def downgrade() -> None:
    op.execute("DELETE FROM window_erasures WHERE done_at IS NOT NULL")
    op.drop_column("window_erasures", "done_at")
