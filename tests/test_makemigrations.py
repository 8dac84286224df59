"""`makemigrations`: the project's models and its columns of the queue's tables, nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa
from helpers import execute
from test_migrate import columns, project, tables, url

from fastedgy import migrate
from fastedgy.errors import MigrationFailed, SchemaOutdated
from fastedgy.models.queued_task import BaseQueuedTask
from fastedgy.orm import Model, fields

__all__ = ["project", "url"]


async def make(url: str, message: str = "change") -> str | None:
    """Make a revision, apply it, prove that a second try finds nothing, and return its text."""
    path = await migrate.makemigrations(url, message)
    if path is None:
        return None
    assert await migrate.upgrade(url) != []
    assert await migrate.makemigrations(url, message) is None
    await _check(url)
    return path.read_text()


async def _check(url: str) -> None:
    from test_migrate import check

    await check(url)


async def test_without_models_there_is_nothing_to_write(project: Path, url: str) -> None:
    assert await migrate.makemigrations(url, "nothing") is None
    assert list(project.iterdir()) == []


async def test_the_queues_own_models_need_no_revision_of_the_project(url: str) -> None:
    from fastedgy.models.queued_task import QueuedTask
    from fastedgy.models.queued_task_log import QueuedTaskLog

    assert await migrate.makemigrations(url, "nothing") is None
    assert QueuedTask.meta.registry is QueuedTaskLog.meta.registry


async def test_a_projects_models_are_made_changed_and_dropped(project: Path, url: str) -> None:
    class Author(Model):
        name = fields.CharField(max_length=100, unique=True)

        class Meta:
            tablename = "authors"

    class Book(Model):
        title = fields.CharField(max_length=200, index=True)
        author = fields.ForeignKey(Author, on_delete="CASCADE", related_name="books")
        price = fields.DecimalField(max_digits=8, decimal_places=2)
        tags = fields.JSONField(default=list)
        address = fields.IPAddressField(null=True)
        printed = fields.DateTimeField(null=True)

        class Meta:
            tablename = "books"

    first = await make(url, "Books and authors")
    assert first is not None
    assert migrate.NEEDED_REVISION in first  # applied after the tables of the queue
    assert await tables(url) >= {"authors", "books", "queued_tasks"}
    files = list((project / "migrations" / "versions").glob("*.py"))
    assert [path.name.split("_", 1)[1] for path in files] == ["books_and_authors.py"]

    Author.meta.registry.delete_model("Book")
    second = await make(url, "drop books")
    assert second is not None
    assert "books" not in await tables(url)

    # One after the other, and back again.
    undone = await migrate.downgrade(url, "base")
    assert len(undone) == 4
    assert await tables(url) == {migrate.VERSION_TABLE}
    assert len(await migrate.upgrade(url)) == 4


async def test_columns_that_a_project_adds_to_the_tasks_are_migrated(url: str) -> None:
    class Tenant(Model):
        name = fields.CharField(max_length=100)

        class Meta:
            tablename = "tenants"

    class Job(BaseQueuedTask):
        tenant = fields.ForeignKey(Tenant, null=True, on_delete="CASCADE", index=True)
        cost = fields.IntegerField(server_default=sa.text("0"))

    text = await make(url, "tenants of tasks")
    assert text is not None
    for shipped in ("state", "date_enqueued", "queued_tasks_ready", "_unique_key", "create_check"):
        assert shipped not in text
    assert (await columns(url, "queued_tasks")).items() >= {
        "tenant": "bigint",
        "cost": "integer",
    }.items()

    Job.meta.registry.delete_model("Job")

    class Work(BaseQueuedTask):
        cost = fields.IntegerField(server_default=sa.text("0"))

    text = await make(url, "tenant no more")
    assert text is not None
    assert "tenant" not in await columns(url, "queued_tasks")
    assert Work.meta.tablename == "queued_tasks"


async def test_a_model_can_refer_to_a_task(url: str) -> None:
    from fastedgy.models.queued_task import QueuedTask

    class Order(Model):
        task = fields.ForeignKey(QueuedTask, null=True, on_delete="SET NULL")

        class Meta:
            tablename = "orders"

    text = await make(url, "orders")
    assert text is not None
    assert "queued_tasks.id" in text
    assert (await columns(url, "orders"))["task"] == "uuid"
    assert Order.meta.tablename in await tables(url)


async def test_tables_of_somebody_else_are_left_alone(url: str) -> None:
    await execute(
        url, "CREATE TABLE spatial_ref_sys (id int)", "CREATE INDEX ON spatial_ref_sys (id)"
    )
    assert await migrate.makemigrations(url, "nothing") is None


async def test_before_the_last_revision_is_applied_none_is_made(url: str) -> None:
    class Book(Model):
        class Meta:
            tablename = "books"

    path = await migrate.makemigrations(url, "books")
    assert path is not None
    with pytest.raises(SchemaOutdated, match=r"is not applied .*`fastedgy db migrate` first"):
        await migrate.makemigrations(url, f"more {Book.meta.tablename}")


async def test_two_ends_of_the_projects_branch_are_named(project: Path, url: str) -> None:
    class Book(Model):
        class Meta:
            tablename = "books"

    path = await migrate.makemigrations(url, "books")
    assert path is not None
    other = path.read_text().replace(path.name.split("_")[0], "other").replace("books", "shelves")
    path.with_name("other_shelves.py").write_text(other)
    await migrate.upgrade(url)

    class Page(Model):
        class Meta:
            tablename = "pages"

    with pytest.raises(MigrationFailed, match=r"has 2 ends \(.*other"):
        await migrate.makemigrations(url, f"{Page.meta.tablename} of {Book.meta.tablename}")
