"""An order: payment at once, stock before the response, everything else after it."""

import json

import httpx
from fastapi import FastAPI
from pydantic import BaseModel
from surroundings import db, send_slack_alert

from fastedgy.tasks import Task, Tasks, add_tasks

app = FastAPI()
add_tasks(app)


# Models
class OrderItem(BaseModel):
    product_id: int
    quantity: int
    price: float


class OrderCreate(BaseModel):
    user_id: int
    email: str
    items: list[OrderItem]
    payment_token: str


# Database operations (simplified)
async def create_order_record(user_id: int, items: list[OrderItem]) -> int:
    # Create order in database
    order_id = 12345  # Generated ID
    return order_id


async def update_order_status(order_id: int, status: str) -> None:
    # Update order status
    pass


# Payment processing
async def process_payment(order_id: int, amount: float, payment_token: str) -> dict:
    """Process payment through payment gateway"""
    async with httpx.AsyncClient() as client:
        response = await client.post(
            "https://api.payment-gateway.com/charge",
            json={
                "amount": amount,
                "currency": "USD",
                "token": payment_token,
                "metadata": {"order_id": order_id},
            },
            headers={"Authorization": "Bearer YOUR_API_KEY"},
        )
        response.raise_for_status()
        return response.json()


async def payment_error_handler(task: Task, error: Exception) -> None:
    """Handle payment failures"""
    order_id = task.kwargs.get("order_id")

    # Update order status
    await update_order_status(order_id, "payment_failed")

    # Alert admin
    await send_slack_alert(f"Payment failed for order {order_id}: {error}")

    # Log to monitoring
    import sentry_sdk

    sentry_sdk.capture_exception(error)


# Inventory management
async def reserve_inventory(order_id: int, items: list[OrderItem]) -> None:
    """Reserve inventory for order"""
    async with db.transaction():
        for item in items:
            result = await db.execute(
                "UPDATE inventory SET reserved = reserved + ? "
                "WHERE product_id = ? AND available >= ?",
                item.quantity,
                item.product_id,
                item.quantity,
            )

            if result.rowcount == 0:
                raise ValueError(f"Insufficient inventory for product {item.product_id}")

        # Record reservation
        await db.execute(
            "INSERT INTO reservations (order_id, items) VALUES (?, ?)",
            order_id,
            json.dumps([item.model_dump() for item in items]),
        )


# Notifications
async def send_order_confirmation(email: str, order_id: int, items: list[OrderItem]) -> None:
    """Send order confirmation email"""
    total = sum(item.price * item.quantity for item in items)

    async with httpx.AsyncClient() as client:
        await client.post(
            "https://api.email-service.com/send",
            json={
                "to": email,
                "subject": f"Order #{order_id} Confirmed",
                "template": "order_confirmation",
                "data": {
                    "order_id": order_id,
                    "items": [item.model_dump() for item in items],
                    "total": total,
                },
            },
        )


async def notify_warehouse(order_id: int, items: list[OrderItem]) -> None:
    """Notify warehouse system to prepare shipment"""
    async with httpx.AsyncClient() as client:
        await client.post(
            "https://warehouse-api.internal/prepare-shipment",
            json={
                "order_id": order_id,
                "items": [{"sku": item.product_id, "qty": item.quantity} for item in items],
            },
        )


# Analytics
async def track_order_event(event: str, order_id: int, metadata: dict) -> None:
    """Send analytics event"""
    async with httpx.AsyncClient() as client:
        await client.post(
            "https://analytics.internal/track",
            json={"event": event, "properties": {"order_id": order_id, **metadata}},
        )


# Main endpoint
@app.post("/orders")
async def create_order(order_data: OrderCreate, tasks: Tasks) -> dict:
    """
    Create a new order with complete processing pipeline:
    1. Create order record
    2. Process payment (shielded, critical)
    3. Reserve inventory (before response)
    4. Send confirmation email (after response)
    5. Notify warehouse (after response)
    6. Track analytics (after response)
    """

    # Calculate total
    total_amount = sum(item.price * item.quantity for item in order_data.items)

    # Create order in database
    order_id = await create_order_record(order_data.user_id, order_data.items)

    # Process payment immediately (critical, shielded)
    tasks.task(name=f"payment_{order_id}", shield=True, on_error=payment_error_handler).schedule(
        process_payment,
        order_id=order_id,
        amount=total_amount,
        payment_token=order_data.payment_token,
    )

    # Reserve inventory before response (must complete)
    tasks.after_route.task(name=f"inventory_{order_id}", shield=True).schedule(
        reserve_inventory, order_id, order_data.items
    )

    # Send confirmation email after response
    tasks.after_response.schedule(
        send_order_confirmation, order_data.email, order_id, order_data.items
    )

    # Notify warehouse after response
    tasks.after_response.schedule(notify_warehouse, order_id, order_data.items)

    # Track analytics after response
    tasks.after_response.schedule(
        track_order_event,
        "order_created",
        order_id,
        {
            "user_id": order_data.user_id,
            "total": total_amount,
            "items_count": len(order_data.items),
        },
    )

    return {"order_id": order_id, "status": "processing", "total": total_amount}
