"""Graceful degradation, partial success, saga, circuit breaker, idempotency."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import httpx

from example_service.models import CacheEntry, Stock
from example_service.workers.examples.partner import Partner, Refused
from fastedgy.dependencies import Inject, get_service
from fastedgy.orm import Database
from fastedgy.queued_task import Discard, get_current_task, getLogger, set_context, task
from fastedgy.workflows import CircuitBreaker, CircuitOpen, Saga, idempotent

logger = getLogger(__name__)

# One row for all processes. That a partner refuses something shows that it is there.
partner_breaker = CircuitBreaker(
    "partner", failure_threshold=5, reset_timeout=30, success_threshold=2, ignore=(Refused,)
)

OF_LAST_YEAR = {"CHF": 0.94, "USD": 1.08}
MOST_BAD_ROWS = 100


# Graceful degradation: the best answer that can be had.


@task(queue="examples")
async def convert_with_fallback(
    amount: float, currency: str, partner: Partner = Inject(Partner)
) -> dict[str, Any]:
    """An amount in another currency: by today's rate, else the last one seen, else last year's."""
    try:
        rate, source = await partner.rate(currency), "live"
        await _remember(currency, rate)
    except httpx.HTTPError as error:
        logger.warning("No rate of today for %s: %r", currency, error)
        known = await CacheEntry.query.get_or_none(key=f"rate:{currency}")
        rate, source = (known.value, "cache") if known else (OF_LAST_YEAR.get(currency), "default")
    if rate is None:
        raise Discard(f"Nobody has ever known a rate for {currency}")
    return {"amount": round(amount * rate, 2), "source": source, "degraded": source != "live"}


async def _remember(currency: str, rate: float) -> None:
    entry = {"value": rate, "expires": datetime.now(UTC) + timedelta(days=7)}
    await CacheEntry.query.update_or_create(key=f"rate:{currency}", defaults=entry)


# Partial success: what is good counts, what is not is told.


@task(queue="examples")
async def restock_with_partial_success(levels: list[dict[str, Any]]) -> dict[str, Any]:
    """Set how many pieces there are. Each level says how many, and not how many more: a repetition
    of the whole list, as after a crash, changes nothing."""
    errors: list[dict[str, Any]] = []
    for number, level in enumerate(levels):
        try:
            product, free = str(level["product"]), int(level["free"])
            if free < 0:
                raise ValueError(f"{free} pieces cannot be")
        except (KeyError, TypeError, ValueError) as error:
            errors.append({"row": number, "error": repr(error)})
        else:
            await Stock.query.update_or_create(product=product, defaults={"free": free})
        set_context("progress", 100 * (number + 1) // len(levels))
    status = "completed" if not errors else "partial" if len(errors) < len(levels) else "failed"
    return {
        "status": status,
        "successful": len(levels) - len(errors),
        "failed": len(errors),
        "errors": errors[:MOST_BAD_ROWS],
    }


# Saga: what was done is undone when a later step fails, whoever is killed meanwhile.


@task(queue="examples", max_retries=3)
async def payment_saga(
    order_id: str,
    user_id: str,
    amount: float,
    product: str = "book",
    partner: Partner = Inject(Partner),
) -> dict[str, Any]:
    """Reserve, charge, ship. The result is of one form, whether it went through or was undone."""
    async with Saga("payment", step_retries=2, backoff=0.5) as saga:
        await saga.step(
            "inventory", reserve_inventory, order_id, product, compensate=(release, order_id)
        )
        charge = await saga.step(
            "payment", partner.charge, f"charge {order_id}", user_id, amount,
            compensate=(partner.refund, Saga.RESULT),
        )  # fmt: skip
        parcel = await saga.step("shipment", partner.ship, f"ship {order_id}", user_id)
    return {"status": "completed", "charge": charge, "parcel": parcel}


RESERVE = """
INSERT INTO reservations (order_id, product) VALUES (:order_id, :product)
ON CONFLICT DO NOTHING RETURNING order_id
"""
TAKE = "UPDATE stock SET free = free - 1 WHERE product = :product AND free > 0 RETURNING free"
RELEASE = """
WITH piece AS (DELETE FROM reservations WHERE order_id = :order_id RETURNING product)
UPDATE stock SET free = free + 1 FROM piece WHERE stock.product = piece.product
"""


async def reserve_inventory(order_id: str, product: str) -> None:
    """Keep a piece for the order: one, however often this is called."""
    database = get_service(Database)
    async with database.transaction():
        new = await database.fetch_one(RESERVE, {"order_id": order_id, "product": product})
        if new and not await database.fetch_one(TAKE, {"product": product}):
            raise Refused(f"{product} is sold out")


async def release(order_id: str) -> None:
    """Give the piece back, if it was not given back before."""
    await get_service(Database).execute(RELEASE, {"order_id": order_id})


# Circuit breaker: no more calls to what is broken.


@task(queue="examples", max_retries=0)
async def call_external_api_with_circuit_breaker(
    currency: str, partner: Partner = Inject(Partner)
) -> dict[str, Any]:
    """A rate, by a call that is not even tried while the partner is known to be down."""
    try:
        async with partner_breaker:
            return {"status": "success", "rate": await partner.rate(currency)}
    except CircuitOpen as error:
        return {"status": "fallback", "rate": OF_LAST_YEAR.get(currency), "circuit": error.name}


@task(queue="examples", breaker="partner")
async def charge_in_line(
    key: str, user_id: str, amount: float, partner: Partner = Inject(Partner)
) -> str:
    """The other way: while the breaker is open this stays in the line, and loses no attempt."""
    return await partner.charge(key, user_id, amount)


# Idempotency: asked twice, done once.


@task(queue="examples", max_retries=5)
async def idempotent_payment(
    idempotency_key: str, user_id: str, amount: float, partner: Partner = Inject(Partner)
) -> dict[str, Any]:
    """Charge once for a key. Whoever comes with it later gets what the first one got.

    The partner is given the key, too: it closes the gap between its answer and our note of it.
    """
    return await idempotent(
        f"payment:{idempotency_key}", _charge, partner, idempotency_key, user_id, amount
    )


async def _charge(partner: Partner, key: str, user_id: str, amount: float) -> dict[str, Any]:
    me = get_current_task()
    charge = await partner.charge(key, user_id, amount)
    return {"charge": charge, "amount": amount, "made_by": me and str(me.id)}
