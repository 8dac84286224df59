"""The Alembic revisions of the shipped tables; installed as `fastedgy.migrations`."""
