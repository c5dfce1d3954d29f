"""For how long a site keeps raw readings, and until when they are folded."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("sites", sa.Column("raw_days", sa.Integer(), nullable=True))
    op.add_column("sites", sa.Column("folded_until", sa.DateTime(timezone=True), nullable=True))


def downgrade() -> None:
    op.drop_column("sites", "folded_until")
    op.drop_column("sites", "raw_days")
