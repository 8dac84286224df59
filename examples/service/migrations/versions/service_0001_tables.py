"""The service's tables, as `fastedgy db makemigrations` writes them."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "service_0001"
down_revision = None
branch_labels = None
depends_on = "fastedgy_0002"


def upgrade() -> None:
    op.create_table(
        "cache",
        sa.Column("key", sa.String(200), primary_key=True),
        sa.Column("value", postgresql.JSONB(), nullable=False),
        sa.Column("expires", sa.DateTime(timezone=True), nullable=False, index=True),
    )
    op.create_table(
        "figures",
        sa.Column("level", sa.String(10), nullable=False),
        sa.Column("start", sa.DateTime(timezone=True), nullable=False),
        sa.Column("orders", sa.Integer(), nullable=False),
        sa.Column("revenue", sa.Numeric(14, 2), nullable=False),
        sa.Column("largest", sa.Numeric(10, 2), nullable=False),
        sa.Column("id", sa.BigInteger(), primary_key=True),
        sa.UniqueConstraint("level", "start", name="uc_7XQAYFOAOBGZJSKSLJBZT2XC6Y"),
    )
    op.create_table(
        "orders",
        sa.Column("customer", sa.String(100), nullable=False),
        sa.Column("amount", sa.Numeric(10, 2), nullable=False),
        sa.Column("placed", sa.DateTime(timezone=True), nullable=False, index=True),
        sa.Column("id", sa.BigInteger(), primary_key=True),
    )
    op.create_table(
        "reminders",
        sa.Column("email", sa.String(200), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("due", sa.DateTime(timezone=True), nullable=False, index=True),
        sa.Column("sent", sa.DateTime(timezone=True), nullable=True),
        sa.Column("id", sa.BigInteger(), primary_key=True),
    )


def downgrade() -> None:
    for table in ("reminders", "orders", "figures", "cache"):
        op.drop_table(table)
