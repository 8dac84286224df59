"""The page on the dashboard: its snippets run, its pictures are there, its tables are complete."""

from __future__ import annotations

import re
from typing import Any

import httpx
import pytest
from pages import ROOT, blocks, page

from fastedgy.admin.pages.site import NAVIGATION, environment

PAGE = "docs/dashboard.md"
SNIPPETS = [block.code for block in blocks(PAGE, "python")]


@pytest.fixture
def environment_of_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ANN_TOKEN", "BOB_TOKEN", "SCREEN_TOKEN"):
        monkeypatch.setenv(name, f"a secret of {name} that is long")


@pytest.mark.usefixtures("environment_of_the_page")
@pytest.mark.parametrize(("snippet", "status"), list(zip(SNIPPETS, (401, 303), strict=True)))
async def test_each_application_has_a_dashboard_that_is_closed(snippet: str, status: int) -> None:
    namespace: dict[str, Any] = {"__name__": "shop"}
    exec(compile(snippet, PAGE, "exec"), namespace)
    transport = httpx.ASGITransport(namespace["app"])
    async with httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
        assert (await client.get("/queue/")).status_code == status


def test_every_picture_is_there_and_small() -> None:
    found = re.findall(r"images/[\w.-]+\.png", page(PAGE))
    sizes = [(ROOT / "docs" / name).stat().st_size for name in found]

    assert len(found) > 10
    assert max(sizes) < 150_000


def test_every_page_and_every_key_is_told() -> None:
    text = page(PAGE)
    source = environment().loader.get_source(environment(), "page.html")[0]  # type: ignore[union-attr]

    for _, title in NAVIGATION:
        assert f"| {title} |" in text
    for key in re.findall(r"<kbd>(\S+?)</kbd>", source):
        assert f"`{key}`" in text
