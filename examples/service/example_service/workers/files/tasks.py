"""The task gets the file's name, never its content."""

from __future__ import annotations

import csv
import gzip
import hashlib
import shutil
from typing import Any

from example_service.settings import ServiceSettings
from fastedgy.dependencies import Inject
from fastedgy.queued_task import Discard, set_context, task


@task(queue="files", timeout=600, unique_key="file:{name}")
def process_file(name: str, settings: ServiceSettings = Inject(ServiceSettings)) -> dict[str, Any]:
    """Look at an uploaded file: its checksum, the columns of a CSV. Then pack it.

    It is a plain function, so that it runs in a thread: reading blocks.
    """
    source = settings.folder("uploads") / name
    packed = settings.folder("packed") / f"{name}.gz"
    if source.parent != settings.folder("uploads") or not (source.exists() or packed.exists()):
        raise Discard(f"There is no upload {name!r}")
    if not source.exists():  # done already, by a run whose outcome was lost
        return {"name": name, "packed": str(packed)}
    with source.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    set_context("sha256", digest)
    about: dict[str, Any] = {"name": name, "bytes": source.stat().st_size, "sha256": digest}
    if source.suffix == ".csv":
        with source.open(newline="", encoding="utf-8", errors="replace") as text:
            rows = csv.reader(text)
            about["columns"] = next(rows, [])
            about["rows"] = sum(1 for _ in rows)
    part = packed.with_suffix(".part")
    with source.open("rb") as plain, gzip.open(part, "wb") as small:
        shutil.copyfileobj(plain, small)
    part.replace(packed)
    source.unlink()
    return {**about, "packed": str(packed)}
