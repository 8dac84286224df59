"""What the guide's snippets call and do not show."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from fastedgy.queued_task import get_current_task, getLogger


@dataclass
class User:
    """A user of the guide's application."""

    id: int
    email: str


@dataclass
class Image:
    """An image of a user's gallery."""

    id: int


def get_user(user_id: int) -> User:
    return User(user_id, f"user{user_id}@example.com")


def get_user_images(user_id: int) -> list[Image]:
    return [Image(100 * user_id + number) for number in range(1, 6)]


async def process_image(image_id: int, user_id: int) -> dict[str, int]:
    await asyncio.sleep(0.5)  # the work
    return {"image": image_id, "user": user_id}


def load_dataset(dataset_id: int) -> list[int]:
    return list(range(dataset_id))


def process_data(data: Any) -> dict[str, Any]:
    if data == "broken":
        raise ValueError("the data is broken")
    return {"processed": data}


def save_results(result: dict[str, Any]) -> None:
    getLogger("tasks.results").debug("saved %d results", len(result["processed"]))


def create_user(user_data: Any) -> None:
    getLogger("tasks.users").info("created")


def resize_image(image: Any) -> None:
    getLogger("tasks.users").info("resized")


def send_email(recipient: Any, template: str = "none") -> dict[str, str]:
    getLogger("tasks.users").info("sent")
    return {"recipient": str(recipient), "template": template}


class APIRateLimitError(Exception):
    """Too many requests; later ones will be answered."""


class APIAuthError(Exception):
    """The key is wrong; trying again would not help."""


class ThirdPartyApi:
    """Somebody else's service."""

    async def send(self, data: dict[str, Any]) -> dict[str, Any]:
        """Refuse the first `limited` attempts, and everything without a key."""
        if not data.get("key"):
            raise APIAuthError("no key")
        run = get_current_task()
        if run is not None and run.attempt <= data.get("limited", 0):
            raise APIRateLimitError("slow down")
        return {"accepted": True}


third_party_api = ThirdPartyApi()
