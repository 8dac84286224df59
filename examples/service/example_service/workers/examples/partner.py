"""The partners' HTTP API: payments, parcels, exchange rates. It fails as others' servers do."""

from __future__ import annotations

from typing import Any

import httpx

from example_service.settings import ServiceSettings
from fastedgy.queued_task import Discard


class Refused(Discard):
    """The other side has understood, and does not want to. A task ends with it, without retries."""


class Partner:
    """`Inject(Partner)`. Effects carry a key: a partner who has seen it answers as before."""

    def __init__(self, settings: ServiceSettings) -> None:
        self._url = settings.partner_url
        self._timeout = settings.webhook_timeout

    async def charge(self, key: str, user_id: str, amount: float) -> str:
        """Take the money; the id of the charge."""
        answer = await self._post("/charges", key, {"user": user_id, "amount": amount})
        return str(answer["id"])

    async def refund(self, charge_id: str) -> None:
        """Give it back."""
        await self._post("/refunds", f"refund {charge_id}", {"charge": charge_id})

    async def ship(self, key: str, user_id: str) -> str:
        """Send the parcel; its number."""
        return str((await self._post("/shipments", key, {"user": user_id}))["id"])

    async def rate(self, currency: str) -> float:
        """How much of the currency there is for one euro."""
        async with httpx.AsyncClient(base_url=self._url, timeout=self._timeout) as client:
            return float(_good(await client.get(f"/rates/{currency}"))["rate"])

    async def _post(self, path: str, key: str, body: dict[str, Any]) -> dict[str, Any]:
        async with httpx.AsyncClient(base_url=self._url, timeout=self._timeout) as client:
            return _good(await client.post(path, json=body, headers={"Idempotency-Key": key}))


def _good(answer: httpx.Response) -> dict[str, Any]:
    if answer.is_client_error:
        raise Refused(f"{answer.request.url.path}: {answer.text}")
    found: dict[str, Any] = answer.raise_for_status().json()
    return found
