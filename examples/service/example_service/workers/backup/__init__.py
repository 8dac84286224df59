"""Backups: every night the database goes to an S3 bucket, and can come back from there."""

from example_service.workers.backup.tasks import backup_database, restore_database

__all__ = ["backup_database", "restore_database"]
