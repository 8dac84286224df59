"""Placeholder."""


class Owner:
    async def close(self) -> None: ...
