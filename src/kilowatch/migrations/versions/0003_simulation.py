"""Simulated devices: what each was when, what it carries on, and what of it is in the history."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("devices", sa.Column("interval_s", sa.Integer(), server_default="60", nullable=False))

    op.create_table(
        "simulation_parts",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("site_id", sa.Integer(), nullable=False),
        sa.Column("device_id", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(length=30), nullable=False),
        sa.Column("properties", sa.JSON(), nullable=False),
        sa.Column("interval_s", sa.Integer(), nullable=False),
        sa.Column("start", sa.BigInteger(), nullable=False),
        sa.Column("begins", sa.BigInteger(), nullable=False),
        sa.Column("joins", sa.BigInteger(), nullable=False),
        sa.Column("ends", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(
            ["site_id"], ["sites.id"], name=op.f("fk_simulation_parts_site_id_sites"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_simulation_parts")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_simulation_parts_site_id"), "simulation_parts", ["site_id"], unique=False)

    op.create_table(
        "simulation_places",
        sa.Column("site_id", sa.Integer(), nullable=False),
        sa.Column("begins", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("timezone", sa.String(length=60), nullable=False),
        sa.Column("latitude", sa.Double(), nullable=True),
        sa.Column("longitude", sa.Double(), nullable=True),
        sa.Column("country", sa.String(length=2), nullable=True),
        sa.ForeignKeyConstraint(
            ["site_id"], ["sites.id"], name=op.f("fk_simulation_places_site_id_sites"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("site_id", "begins", name=op.f("pk_simulation_places")),
    )

    op.create_table(
        "simulation_states",
        sa.Column("device_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("at", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("site_id", sa.Integer(), nullable=False),
        sa.Column("state", sa.JSON(), nullable=False),
        sa.Column("is_first", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(
            ["site_id"], ["sites.id"], name=op.f("fk_simulation_states_site_id_sites"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("device_id", "at", name=op.f("pk_simulation_states")),
    )
    op.create_index(op.f("ix_simulation_states_site_id"), "simulation_states", ["site_id"], unique=False)

    op.create_table(
        "simulation_spans",
        sa.Column("metric_id", sa.Integer(), nullable=False),
        sa.Column("begins", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("ends", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["metric_id"], ["metrics.id"], name=op.f("fk_simulation_spans_metric_id_metrics"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("metric_id", "begins", name=op.f("pk_simulation_spans")),
    )


def downgrade() -> None:
    op.drop_table("simulation_spans")
    op.drop_index(op.f("ix_simulation_states_site_id"), table_name="simulation_states")
    op.drop_table("simulation_states")
    op.drop_table("simulation_places")
    op.drop_index(op.f("ix_simulation_parts_site_id"), table_name="simulation_parts")
    op.drop_table("simulation_parts")
    op.drop_column("devices", "interval_s")
