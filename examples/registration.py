"""A registration: its e-mail is sent after the response, and again if that fails."""

import asyncio
import secrets
from datetime import UTC, datetime, timedelta

import httpx
from fastapi import FastAPI, HTTPException
from pydantic import BaseModel
from surroundings import db, send_slack_alert

from fastedgy.tasks import Task, Tasks, add_tasks

app = FastAPI()
add_tasks(app)


# Models
class UserRegister(BaseModel):
    email: str
    password: str
    name: str


# Database operations
async def create_user_record(email: str, password_hash: str, name: str) -> int:
    user_id = await db.execute(
        "INSERT INTO users (email, password_hash, name, verified) VALUES (?, ?, ?, ?)",
        email,
        password_hash,
        name,
        False,
    )
    return user_id


async def create_verification_token(user_id: int) -> str:
    token = secrets.token_urlsafe(32)
    expires_at = datetime.now(UTC) + timedelta(hours=24)

    await db.execute(
        "INSERT INTO verification_tokens (user_id, token, expires_at) VALUES (?, ?, ?)",
        user_id,
        token,
        expires_at,
    )

    return token


# Email operations
async def send_verification_email(email: str, token: str, name: str) -> None:
    """Send email verification link"""
    verification_url = f"https://yourapp.com/verify?token={token}"

    async with httpx.AsyncClient() as client:
        response = await client.post(
            "https://api.email-service.com/send",
            json={
                "to": email,
                "subject": "Verify your email",
                "template": "email_verification",
                "data": {"name": name, "verification_url": verification_url},
            },
        )
        response.raise_for_status()


async def send_welcome_email(email: str, name: str) -> None:
    """Send welcome email after verification"""
    async with httpx.AsyncClient() as client:
        await client.post(
            "https://api.email-service.com/send",
            json={
                "to": email,
                "subject": "Welcome to Our App!",
                "template": "welcome",
                "data": {"name": name},
            },
        )


# Analytics
async def track_user_event(event: str, user_id: int, metadata: dict | None = None) -> None:
    """Track user events"""
    async with httpx.AsyncClient() as client:
        await client.post(
            "https://analytics.internal/track",
            json={
                "user_id": user_id,
                "event": event,
                "timestamp": datetime.now(UTC).isoformat(),
                "properties": metadata or {},
            },
        )


# Error handlers
async def email_error_handler(task: Task, error: Exception) -> None:
    """Handle email sending failures with retry"""
    max_retries = 3

    for attempt in range(max_retries):
        try:
            await asyncio.sleep(2**attempt)  # Exponential backoff
            await task()  # Retry
            return
        except Exception as e:
            if attempt == max_retries - 1:
                # Final failure - log and alert
                import logging

                logging.error(f"Email task failed after {max_retries} retries: {e}")
                await send_slack_alert(f"Email delivery failed: {e}")


# Endpoints
@app.post("/register")
async def register_user(user_data: UserRegister, tasks: Tasks) -> dict:
    """Register a new user with email verification"""

    # Hash password (sync operation)
    import bcrypt

    password_hash = bcrypt.hashpw(user_data.password.encode(), bcrypt.gensalt()).decode()

    # Create user record
    user_id = await create_user_record(user_data.email, password_hash, user_data.name)

    # Create verification token
    verification_token = await create_verification_token(user_id)

    # Send verification email (with retry on failure)
    tasks.after_response.task(
        name=f"verification_email_{user_id}", on_error=email_error_handler
    ).schedule(send_verification_email, user_data.email, verification_token, user_data.name)

    # Track registration event
    tasks.after_response.schedule(
        track_user_event, "user_registered", user_id, {"email": user_data.email}
    )

    return {
        "user_id": user_id,
        "message": "Registration successful. Please check your email to verify your account.",
    }


@app.post("/verify")
async def verify_email(token: str, tasks: Tasks) -> dict:
    """Verify user email with token"""

    # Verify token
    result = await db.fetchone(
        "SELECT user_id FROM verification_tokens "
        "WHERE token = ? AND expires_at > ? AND used = FALSE",
        token,
        datetime.now(UTC),
    )

    if not result:
        raise HTTPException(status_code=400, detail="Invalid or expired token")

    user_id = result["user_id"]

    # Mark user as verified
    await db.execute("UPDATE users SET verified = TRUE WHERE id = ?", user_id)

    # Mark token as used
    await db.execute("UPDATE verification_tokens SET used = TRUE WHERE token = ?", token)

    # Get user details
    user = await db.fetchone("SELECT email, name FROM users WHERE id = ?", user_id)

    # Send welcome email
    tasks.after_response.schedule(send_welcome_email, user["email"], user["name"])

    # Track verification
    tasks.after_response.schedule(track_user_event, "email_verified", user_id)

    return {"message": "Email verified successfully"}
