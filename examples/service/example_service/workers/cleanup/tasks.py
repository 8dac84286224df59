"""Each can be repeated at any time: what is gone already is no error."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

from example_service.models import CacheEntry, Reminder
from example_service.settings import ServiceSettings
from example_service.workers.backup.storage import Bucket
from fastedgy.dependencies import Inject
from fastedgy.queued_task import getLogger, task
from fastedgy.scheduler import scheduled

logger = getLogger(__name__)


@scheduled(cron="30 * * * *", name="temporary files", jitter=60)
@task(queue="cleanup")
def delete_temp_files(
    hours: float = 24, settings: ServiceSettings = Inject(ServiceSettings)
) -> dict[str, int]:
    """Delete temporary files and exports that nobody has touched for so many hours."""
    oldest = time.time() - hours * 3600
    deleted = freed = 0
    for folder in (settings.folder("tmp"), settings.folder("exports")):
        for path in folder.rglob("*"):
            about = path.lstat()
            if path.is_file() and about.st_mtime < oldest:
                path.unlink(missing_ok=True)
                deleted, freed = deleted + 1, freed + about.st_size
    logger.info("%d files, %d bytes", deleted, freed)
    return {"deleted": deleted, "bytes": freed}


@scheduled(cron="0 3 * * *", name="old backups", misfire_grace=None)
@task(queue="cleanup")
async def delete_old_backups(keep: int = 14, bucket: Bucket = Inject(Bucket)) -> dict[str, int]:
    """Keep the newest backups. The names have the days, so that they sort by age."""
    old = (await bucket.keys("database/"))[:-keep]
    for key in old:
        await bucket.delete(key)
    return {"deleted": len(old)}


@scheduled(cron="15 3 * * *", name="expired data", misfire_grace=None)
@task(queue="cleanup")
async def delete_expired_data(days: float = 90) -> dict[str, int]:
    """Delete what is not read any more."""
    now = datetime.now(UTC)
    sent = Reminder.query.filter(sent__lt=now - timedelta(days=days))
    return {
        "cache": await CacheEntry.query.filter(expires__lt=now).delete(),
        "reminders": await sent.delete(),
    }
