"""The tables of the queue: tasks, their parent links, their logs, and the workers.

The names come from the project's models (`fastedgy.models.queue_tables`), so that a project that
renamed its tables is served by the same revisions.
"""

from string import Template

from alembic import context, op

revision = "fastedgy_0001"
down_revision = None
branch_labels = ("fastedgy",)
depends_on = None

# A row is written three times in its life (enqueued, doing, done), none of them "heap only", since
# the state is in the partial indexes. Free room in each page keeps the versions of one row
# together: measured +25 % on claim and complete. Vacuum early, the dead versions are many.
# Each statement reads the text of each CHECK anew: arrays are shorter than what IN makes (measured:
# an eighth of the server's CPU for a single INSERT).
UPGRADE = """
CREATE TABLE $tasks (
    date_created timestamptz NOT NULL DEFAULT clock_timestamp(),
    date_due timestamptz,
    date_enqueued timestamptz DEFAULT clock_timestamp(),
    date_started timestamptz,
    date_ended timestamptz,
    timeout double precision,
    id uuid NOT NULL PRIMARY KEY,
    worker_id uuid,
    run integer NOT NULL DEFAULT 0,
    attempt integer NOT NULL DEFAULT 0,
    max_retries integer NOT NULL DEFAULT 3,
    losses integer NOT NULL DEFAULT 0,
    priority integer NOT NULL DEFAULT 0,
    waiting_on integer NOT NULL DEFAULT 0,
    alone boolean NOT NULL DEFAULT false,
    has_children boolean NOT NULL DEFAULT false,
    awaited boolean NOT NULL DEFAULT false,
    cancel_requested boolean NOT NULL DEFAULT false,
    auto_remove boolean NOT NULL DEFAULT false,
    state text NOT NULL DEFAULT 'enqueued',
    queue text NOT NULL DEFAULT 'default',
    name text NOT NULL,
    function text NOT NULL,
    args jsonb NOT NULL DEFAULT '[]',
    kwargs jsonb NOT NULL DEFAULT '{}',
    context jsonb NOT NULL DEFAULT '{}',
    result jsonb,
    on_parent_failure text NOT NULL DEFAULT 'cancel',
    unique_key text,
    error_type text,
    error_message text,
    error_traceback text,
    history jsonb NOT NULL DEFAULT '[]',
    closure bytea,
    CONSTRAINT ${tasks}_state_known CHECK
        (state = ANY ('{scheduled,waiting,enqueued,doing,done,failed,cancelled}')),
    CONSTRAINT ${tasks}_scheduled_is_due CHECK (state <> 'scheduled' OR date_due IS NOT NULL),
    CONSTRAINT ${tasks}_waiting_on_parents CHECK (state <> 'waiting' OR waiting_on > 0),
    CONSTRAINT ${tasks}_enqueued_in_line CHECK (state <> 'enqueued' OR date_enqueued IS NOT NULL),
    CONSTRAINT ${tasks}_doing_has_owner CHECK
        (state <> 'doing' OR (worker_id IS NOT NULL AND date_started IS NOT NULL)),
    CONSTRAINT ${tasks}_ended_has_end CHECK
        (state <> ALL ('{done,failed,cancelled}') OR date_ended IS NOT NULL),
    CONSTRAINT ${tasks}_on_parent_failure_known CHECK
        (on_parent_failure = ANY ('{cancel,run,fail}'))
) WITH (
    fillfactor = 60,
    autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_vacuum_cost_delay = 0,
    autovacuum_analyze_scale_factor = 0.05
);

-- What a claim walks. A task that may have killed its worker runs alone and has its own index.
CREATE INDEX ${tasks}_ready ON $tasks (queue, priority DESC, date_enqueued)
    WHERE state = 'enqueued' AND NOT alone;
CREATE INDEX ${tasks}_suspect ON $tasks (date_enqueued) WHERE state = 'enqueued' AND alone;
CREATE INDEX ${tasks}_scheduled ON $tasks (date_due) WHERE state = 'scheduled';
CREATE INDEX ${tasks}_waiting ON $tasks (id) WHERE state = 'waiting';
-- An entry for several rows would last as long as the last of them.
CREATE INDEX ${tasks}_doing ON $tasks (worker_id) WITH (deduplicate_items = off)
    WHERE state = 'doing';
CREATE INDEX ${tasks}_failed ON $tasks (date_ended) WHERE state = 'failed';
CREATE INDEX ${tasks}_cancelled ON $tasks (date_ended) WHERE state = 'cancelled';
CREATE UNIQUE INDEX ${tasks}_unique_key ON $tasks (unique_key)
    WHERE unique_key IS NOT NULL AND state IN ('scheduled', 'waiting', 'enqueued', 'doing');

CREATE TABLE $links (
    parent_id uuid NOT NULL,
    child_id uuid NOT NULL,
    settled boolean NOT NULL DEFAULT false,
    PRIMARY KEY (parent_id, child_id)
) WITH (fillfactor = 80);
CREATE INDEX ${links}_child ON $links (child_id);

CREATE TABLE $logs (
    logged_at timestamptz NOT NULL,
    task_id uuid NOT NULL,
    run integer NOT NULL,
    seq integer NOT NULL,
    level text NOT NULL,
    logger text NOT NULL,
    message text NOT NULL,
    info jsonb,
    PRIMARY KEY (task_id, run, seq),
    CONSTRAINT ${logs}_level_known CHECK
        (level IN ('debug', 'info', 'warning', 'error', 'critical'))
);

CREATE TABLE $workers (
    id uuid NOT NULL PRIMARY KEY,
    server_name text NOT NULL,
    pid integer NOT NULL,
    supervisor_id uuid,
    state text NOT NULL DEFAULT 'running',
    queues text[],
    concurrency integer NOT NULL,
    busy integer NOT NULL DEFAULT 0,
    version text NOT NULL,
    counters jsonb NOT NULL DEFAULT '{}',
    date_started timestamptz NOT NULL DEFAULT clock_timestamp(),
    last_heartbeat timestamptz NOT NULL DEFAULT clock_timestamp(),
    date_ended timestamptz,
    exit_reason text,
    CONSTRAINT ${workers}_state_known CHECK (state IN ('running', 'draining', 'stopped', 'lost')),
    CONSTRAINT ${workers}_ended_has_end CHECK
        (state IN ('running', 'draining') OR date_ended IS NOT NULL)
) WITH (fillfactor = 50);
CREATE INDEX ${workers}_alive ON $workers (last_heartbeat) WHERE state IN ('running', 'draining');
"""

DOWNGRADE = """
DROP TABLE $workers;
DROP TABLE $logs;
DROP TABLE $links;
DROP TABLE $tasks;
"""


def _run(script: str) -> None:
    names: dict[str, str] = context.config.attributes["tables"]
    for statement in Template(script).substitute(names).split(";\n"):
        if statement.strip():
            op.execute(statement)


def upgrade() -> None:
    _run(UPGRADE)


def downgrade() -> None:
    _run(DOWNGRADE)
