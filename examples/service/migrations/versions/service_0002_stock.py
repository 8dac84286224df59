"""What the payment saga reserves, as `fastedgy db makemigrations` writes it."""

import sqlalchemy as sa
from alembic import op

revision = "service_0002"
down_revision = "service_0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "reservations",
        sa.Column("order_id", sa.String(100), primary_key=True),
        sa.Column("product", sa.String(100), nullable=False),
    )
    op.create_table(
        "stock",
        sa.Column("product", sa.String(100), primary_key=True),
        sa.Column("free", sa.Integer(), nullable=False),
    )


def downgrade() -> None:
    for table in ("stock", "reservations"):
        op.drop_table(table)
