"""A project's own class takes the place of the shipped one."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import asyncpg
import pytest
from project import connected

from fastedgy.database import registry
from fastedgy.errors import ConfigurationError
from fastedgy.models import Tables, queue_tables
from fastedgy.models import queued_task as module
from fastedgy.models.queued_task import BaseQueuedTask
from fastedgy.models.queued_task_log import BaseQueuedTaskLog
from fastedgy.orm import fields


def test_without_models_of_the_project_the_shipped_names_count() -> None:
    assert queue_tables() == Tables()
    assert registry.models == {}


def test_the_shipped_class_is_made_once_and_when_it_is_asked_for() -> None:
    from fastedgy.models.queued_task import QueuedTask

    assert module.QueuedTask is QueuedTask
    assert registry.models == {"QueuedTask": QueuedTask}
    assert QueuedTask.meta.tablename == "queued_tasks"
    assert (QueuedTask.__module__, QueuedTask.__qualname__) == (module.__name__, "QueuedTask")
    assert queue_tables() == Tables()


def test_a_project_may_name_class_and_table_as_it_likes() -> None:
    class Job(BaseQueuedTask):
        tenant = fields.CharField(max_length=50, null=True)

        class Meta:
            tablename = "jobs"

    class JobLine(BaseQueuedTaskLog):
        class Meta:
            tablename = "job_lines"

    assert queue_tables() == Tables(tasks="jobs", logs="job_lines")
    assert module.QueuedTask is Job
    assert set(registry.models) == {"Job", "JobLine"}


def test_without_a_table_name_the_shipped_table_is_meant() -> None:
    class Job(BaseQueuedTask):
        tenant = fields.CharField(max_length=50, null=True)

    assert Job.meta.tablename == "queued_tasks"
    assert queue_tables() == Tables()


@pytest.mark.parametrize("name", ["Job", "QueuedTask"])
def test_the_shipped_class_gives_way_even_when_it_was_used_before(name: str) -> None:
    shipped = module.QueuedTask
    assert shipped.table.name == "queued_tasks"

    meta = type("Meta", (), {"tablename": "jobs"})
    job = type(BaseQueuedTask)(name, (BaseQueuedTask,), {"__module__": __name__, "Meta": meta})

    assert module.QueuedTask is job
    assert list(registry.models.values()) == [job]
    assert queue_tables().tasks == "jobs"
    assert shipped.table.name == "jobs"


async def test_who_holds_the_shipped_class_reads_the_rows_of_the_projects(
    empty_database_url: str,
) -> None:
    shipped = module.QueuedTask

    class Job(BaseQueuedTask):
        tenant = fields.CharField(max_length=50, null=True)

        class Meta:
            tablename = "jobs"

    async with connected(empty_database_url):
        await registry.create_all()
        job = await Job.query.create(
            name="n", function="m:f", state="failed", date_ended="2026-05-04T12:00:00Z", tenant="a"
        )
        assert (await shipped.query.get(id=job.id)).state == "failed"
        assert (await Job.query.get(id=job.id)).tenant == "a"


def test_the_shipped_class_can_be_subclassed_too() -> None:
    from fastedgy.models.queued_task import QueuedTask

    class Job(QueuedTask):
        tenant = fields.CharField(max_length=50, null=True)

    assert module.QueuedTask is Job
    assert list(registry.models.values()) == [Job]
    assert Job.meta.tablename == "queued_tasks"
    assert "tenant" in Job.table.c


def test_abstract_classes_between_do_not_count() -> None:
    class Company(BaseQueuedTask):
        tenant = fields.CharField(max_length=50, null=True)

        class Meta:
            abstract = True

    class Job(Company):
        class Meta:
            tablename = "jobs"

    assert module.QueuedTask is Job
    assert "tenant" in Job.table.c


def test_two_classes_for_one_table_are_refused_by_name() -> None:
    class Job(BaseQueuedTask):
        class Meta:
            tablename = "jobs"

    class Work(BaseQueuedTask):
        class Meta:
            tablename = "works"

    with pytest.raises(ConfigurationError, match=r"Job and .*Work compete for the queue's tasks"):
        queue_tables()
    with pytest.raises(ConfigurationError, match="compete"):
        _ = module.QueuedTask
    assert (Job.meta.tablename, Work.meta.tablename) == ("jobs", "works")


@pytest.mark.parametrize("table", ["My Jobs", "jobs;", "app.jobs", "Jobs", "j" * 40, "1jobs"])
def test_a_table_name_that_sql_would_have_to_quote_or_cut_is_refused(table: str) -> None:
    meta = type("Meta", (), {"tablename": table})
    with pytest.raises(ConfigurationError, match="cannot have the table"):
        type(BaseQueuedTask)("Job", (BaseQueuedTask,), {"__module__": __name__, "Meta": meta})
    assert registry.models == {}


def test_a_column_that_the_queue_could_not_fill_is_refused() -> None:
    class Job(BaseQueuedTask):
        tenant = fields.CharField(max_length=50)

    with pytest.raises(ConfigurationError, match=r"'tenant' of .*Job must be null=True or have"):
        _ = Job.table


async def test_columns_of_the_project_are_read_and_written(
    connection: asyncpg.Connection, database_url: str
) -> None:
    class Job(BaseQueuedTask):
        tenant = fields.CharField(max_length=50, null=True)

    await connection.execute("ALTER TABLE queued_tasks ADD tenant varchar(50)")
    async with connected(database_url):
        made: Any = await Job.query.create(
            name="n", function="m:f", state="failed", date_ended="2026-05-04T12:00:00Z", tenant="a"
        )
        assert await Job.query.filter(tenant="a", state="failed").count() == 1
        assert made.can_be_restarted


def test_the_names_of_the_tables_cost_no_import_of_edgy() -> None:
    script = (
        "import sys, fastedgy.models as m; assert m.queue_tables().tasks == 'queued_tasks';"
        "assert 'edgy' not in sys.modules and 'sqlalchemy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", script], check=True)
