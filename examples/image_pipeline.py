"""An upload: its versions are made and sent to the CDN while the response is already out."""

import asyncio
import json
import os
from datetime import UTC, datetime
from pathlib import Path

import aiofiles
import httpx
from fastapi import FastAPI, UploadFile
from PIL import Image
from pydantic import BaseModel
from registration import track_user_event
from surroundings import db

from fastedgy.tasks import Task, Tasks, add_tasks

app = FastAPI()
add_tasks(app)


# Models
class ImageUpload(BaseModel):
    user_id: int


# Image processing (sync operations with PIL)
def create_thumbnail(source_path: str, thumb_path: str, size: tuple) -> None:
    """Create image thumbnail"""
    img = Image.open(source_path)
    img.thumbnail(size)
    img.save(thumb_path, optimize=True, quality=85)


def optimize_image(source_path: str, output_path: str) -> None:
    """Optimize image for web"""
    img = Image.open(source_path)
    img.save(output_path, optimize=True, quality=90)


# CDN upload
async def upload_to_cdn(local_path: str, cdn_path: str) -> str:
    """Upload file to CDN"""
    async with aiofiles.open(local_path, "rb") as f:
        file_data = await f.read()

    async with httpx.AsyncClient() as client:
        response = await client.put(
            f"https://cdn-api.example.com/upload/{cdn_path}",
            content=file_data,
            headers={"Authorization": "Bearer YOUR_CDN_KEY"},
        )
        response.raise_for_status()
        return response.json()["url"]


# Database
async def save_image_record(
    user_id: int, original_url: str, optimized_url: str, thumbnail_url: str, metadata: dict
) -> int:
    """Save image record to database"""
    image_id = await db.execute(
        "INSERT INTO images (user_id, original_url, optimized_url, thumbnail_url, metadata) "
        "VALUES (?, ?, ?, ?, ?)",
        user_id,
        original_url,
        optimized_url,
        thumbnail_url,
        json.dumps(metadata),
    )
    return image_id


# Complete processing pipeline
async def process_uploaded_image(user_id: int, upload_path: str, filename: str) -> None:
    """Complete image processing pipeline"""

    # Generate paths
    base_name = Path(filename).stem
    ext = Path(filename).suffix

    optimized_path = f"/tmp/{base_name}_optimized{ext}"
    thumb_path = f"/tmp/{base_name}_thumb{ext}"

    # Step 1: Create optimized version (sync)
    optimize_image(upload_path, optimized_path)

    # Step 2: Create thumbnail (sync)
    create_thumbnail(upload_path, thumb_path, (300, 300))

    # Step 3: Upload all versions to CDN (async, parallel)
    upload_tasks = [
        upload_to_cdn(upload_path, f"images/{user_id}/original/{filename}"),
        upload_to_cdn(optimized_path, f"images/{user_id}/optimized/{filename}"),
        upload_to_cdn(thumb_path, f"images/{user_id}/thumb/{filename}"),
    ]

    original_url, optimized_url, thumb_url = await asyncio.gather(*upload_tasks)

    # Step 4: Save to database
    image_id = await save_image_record(
        user_id,
        original_url,
        optimized_url,
        thumb_url,
        {"filename": filename, "upload_date": datetime.now(UTC).isoformat()},
    )

    # Step 5: Cleanup temp files
    for path in [upload_path, optimized_path, thumb_path]:
        if os.path.exists(path):
            os.remove(path)

    # Step 6: Track analytics
    await track_user_event("image_uploaded", user_id, {"image_id": image_id})


# Error handler for image processing
async def image_processing_error(task: Task, error: Exception) -> None:
    """Handle image processing failures"""
    # Clean up temp files
    upload_path = task.args[1] if len(task.args) > 1 else None
    if upload_path and os.path.exists(upload_path):
        os.remove(upload_path)

    # Log error
    import logging

    logging.error(f"Image processing failed: {error}")


# Upload endpoint
@app.post("/upload-image")
async def upload_image(file: UploadFile, user_id: int, tasks: Tasks) -> dict:
    """Upload and process image"""

    # Save uploaded file to temp location
    filename = Path(file.filename or "upload").name
    upload_path = f"/tmp/{filename}"

    async with aiofiles.open(upload_path, "wb") as f:
        content = await file.read()
        await f.write(content)

    # Start processing immediately (long-running)
    tasks.task(
        name=f"process_image_{user_id}_{filename}", on_error=image_processing_error
    ).schedule(process_uploaded_image, user_id, upload_path, filename)

    return {"status": "processing", "message": "Image uploaded successfully and is being processed"}
