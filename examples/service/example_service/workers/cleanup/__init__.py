"""Cleaning up: temporary files, old backups, rows that have had their day."""

from example_service.workers.cleanup.tasks import (
    delete_expired_data,
    delete_old_backups,
    delete_temp_files,
)

__all__ = ["delete_expired_data", "delete_old_backups", "delete_temp_files"]
