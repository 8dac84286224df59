"""Events: sent in batches of ten, and kept in the database if nobody takes them."""

import asyncio
import json
from collections import defaultdict
from datetime import UTC, datetime

import httpx
from fastapi import FastAPI
from surroundings import db, send_slack_alert

from fastedgy.tasks import Task, Tasks, add_tasks

app = FastAPI()
add_tasks(app)


# In-memory buffer for batching
event_buffer = defaultdict(list)
buffer_lock = asyncio.Lock()


async def flush_events_to_analytics(events: list[dict]) -> None:
    """Send batched events to analytics service"""
    async with httpx.AsyncClient() as client:
        response = await client.post("https://analytics.example.com/batch", json={"events": events})
        response.raise_for_status()


async def save_events_to_db_fallback(events: list[dict]) -> None:
    """Fallback: Save events to database if analytics service fails"""
    await db.execute_many(
        "INSERT INTO analytics_events (event_type, user_id, properties, timestamp) "
        "VALUES (?, ?, ?, ?)",
        [(e["event"], e["user_id"], json.dumps(e["properties"]), e["timestamp"]) for e in events],
    )


async def analytics_error_handler(task: Task, error: Exception) -> None:
    """Handle analytics failures with fallback"""
    events = task.args[0] if task.args else []

    # Try fallback to database
    try:
        await save_events_to_db_fallback(events)
        import logging

        logging.warning(f"Analytics service failed, saved {len(events)} events to DB")
    except Exception as fallback_error:
        # Both failed - alert
        await send_slack_alert(
            f"Analytics pipeline failed completely: {error}\n"
            f"Fallback also failed: {fallback_error}\n"
            f"Lost {len(events)} events"
        )


# Batch processor
async def process_event_batch(events: list[dict], tasks: Tasks) -> None:
    """Process a batch of analytics events"""
    if not events:
        return

    tasks.task(
        name=f"analytics_batch_{len(events)}_events", on_error=analytics_error_handler
    ).schedule(flush_events_to_analytics, events)


# Track event endpoint
@app.post("/track")
async def track_event(event: str, user_id: int, properties: dict, tasks: Tasks) -> dict:
    """Track an analytics event with batching"""

    event_data = {
        "event": event,
        "user_id": user_id,
        "properties": properties,
        "timestamp": datetime.now(UTC).isoformat(),
    }

    async with buffer_lock:
        event_buffer[user_id].append(event_data)

        # Flush if buffer is large enough
        if len(event_buffer[user_id]) >= 10:
            events_to_flush = event_buffer[user_id].copy()
            event_buffer[user_id].clear()

            # Process batch in background
            await process_event_batch(events_to_flush, tasks)

    return {"status": "tracked"}
