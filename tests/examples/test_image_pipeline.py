"""The image pipeline: real images, a CDN that takes them, and one that does not."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from city import MOODS
from PIL import Image
from served import Example

from fastedgy.testing import wait_for_tasks

EXAMPLE = "image_pipeline"
CDN, ANALYTICS = "cdn-api.example.com", "analytics.internal"


def picture(size: tuple[int, int] = (1200, 800)) -> bytes:
    """A JPEG with something on it."""
    image = Image.linear_gradient("L").resize(size).convert("RGB")
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=100)
    return buffer.getvalue()


@pytest.fixture(autouse=True)
def cdn(example: Example) -> None:
    example.city[CDN].answer = {"url": "https://cdn.example.com{path}"}


@pytest.fixture
def name(tmp_path: Path) -> str:
    """A file name that nobody else uses, as the example writes to /tmp."""
    return f"fastedgy-{tmp_path.parent.name}-{tmp_path.name}.jpg"


def left(name: str) -> list[str]:
    return [path.name for path in Path("/tmp").glob(f"{Path(name).stem}*")]


def upload(example: Example, name: str, content: bytes) -> None:
    answer = example.site.post(
        "/upload-image", params={"user_id": 7}, files={"file": (name, content, "image/jpeg")}
    )
    assert answer.json()["status"] == "processing"
    wait_for_tasks(example.module.app)


def test_an_image_is_optimised_shrunk_uploaded_and_recorded(example: Example, name: str) -> None:
    original = picture()
    upload(example, name, original)

    uploads = dict(example.city[CDN].asked)
    paths = {kind: f"/upload/images/7/{kind}/{name}" for kind in ("original", "optimized", "thumb")}
    assert set(uploads) == set(paths.values())
    assert uploads[paths["original"]] == original
    assert len(uploads[paths["optimized"]]) < len(original)
    thumb = Image.open(io.BytesIO(uploads[paths["thumb"]]))
    assert (thumb.format, thumb.size) == ("JPEG", (300, 200))
    [row] = example.rows("SELECT user_id, original_url, thumbnail_url FROM images")
    assert row == (7, f"https://cdn.example.com{paths['original']}",
                   f"https://cdn.example.com{paths['thumb']}")  # fmt: skip
    [event] = example.city[ANALYTICS].bodies
    assert (event["event"], event["properties"]) == ("image_uploaded", {"image_id": 1})
    assert left(name) == []


@pytest.mark.parametrize("mood", MOODS)
def test_a_cdn_that_fails_leaves_no_upload_behind(
    example: Example, name: str, mood: str, caplog: pytest.LogCaptureFixture
) -> None:
    example.city[CDN].mood = mood
    upload(example, name, picture((60, 40)))
    assert "Image processing failed" in caplog.text
    assert name not in left(name)
    assert example.rows("SELECT * FROM images") == []
    for forgotten in left(name):  # the guide's handler removes the upload only
        Path("/tmp", forgotten).unlink()


def test_what_is_no_image_is_removed(
    example: Example, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    upload(example, name, b"no image")
    assert "Image processing failed: cannot identify image file" in caplog.text
    assert left(name) == []


def test_a_name_with_folders_stays_in_its_place(example: Example, name: str) -> None:
    upload(example, f"../var/{name}", picture((60, 40)))
    assert not Path("/var", name).exists()
    assert len(example.rows("SELECT * FROM images")) == 1


@pytest.mark.parametrize("mood", ["times out", "hangs up"])
def test_analytics_that_are_away_come_after_the_record(
    example: Example, name: str, mood: str
) -> None:
    example.city[ANALYTICS].mood = mood
    upload(example, name, picture((60, 40)))
    assert len(example.rows("SELECT * FROM images")) == 1
    assert left(name) == []
