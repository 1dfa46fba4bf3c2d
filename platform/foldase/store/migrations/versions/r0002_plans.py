"""Plans of attempts, and how far off they were."""

from __future__ import annotations

from alembic import op
from sqlalchemy import BigInteger, Column, String, Text

revision = "r0002"
down_revision = "r0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Attempts keep their plan and what changed since the one before; operators their corrections."""
    op.add_column("attempt", Column("plan", Text))
    op.add_column("attempt", Column("changes", Text))
    op.create_table(
        "correction",
        Column("operator", Text, primary_key=True),
        Column("key", String(64), primary_key=True),
        Column("ratios", Text, nullable=False),
        Column("updated_at", BigInteger, nullable=False),
    )
