"""The service's tables. `fastedgy db makemigrations` writes their revisions."""

from __future__ import annotations

from fastedgy.orm import Model, fields


class Order(Model):
    """What the figures are made of."""

    customer = fields.CharField(max_length=100)
    amount = fields.DecimalField(max_digits=10, decimal_places=2)
    placed = fields.DateTimeField(index=True)

    class Meta:
        tablename = "orders"


class Reminder(Model):
    """A mail that is to go out at its time. `sent` is when it did."""

    email = fields.CharField(max_length=200)
    text = fields.TextField()
    due = fields.DateTimeField(index=True)
    sent = fields.DateTimeField(null=True)

    class Meta:
        tablename = "reminders"


class CacheEntry(Model):
    """A value that was dear to compute."""

    key = fields.CharField(max_length=200, primary_key=True)
    value = fields.JSONField()
    expires = fields.DateTimeField(index=True)

    class Meta:
        tablename = "cache"


class Figures(Model):
    """What happened in an hour, a day, a week or a month."""

    level = fields.CharField(max_length=10)
    start = fields.DateTimeField()
    orders = fields.IntegerField()
    revenue = fields.DecimalField(max_digits=14, decimal_places=2)
    largest = fields.DecimalField(max_digits=10, decimal_places=2)

    class Meta:
        tablename = "figures"
        unique_together = [("level", "start")]  # noqa: RUF012 - as Edgy has it


class Stock(Model):
    """How many pieces of a product are free."""

    product = fields.CharField(max_length=100, primary_key=True)
    free = fields.IntegerField()

    class Meta:
        tablename = "stock"


class Reservation(Model):
    """A piece that is kept for an order: one each, so that reserving twice does no harm."""

    order_id = fields.CharField(max_length=100, primary_key=True)
    product = fields.CharField(max_length=100)

    class Meta:
        tablename = "reservations"
