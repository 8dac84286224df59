"""What workflows, limits, schedules and operations keep in the database.

New columns of the tasks and workers, and tables beside them: queues and limits, breakers, steps,
events, kept keys, schedules, the audit and the rollups of each minute.
"""

from string import Template

from alembic import context, op

revision = "fastedgy_0002"
down_revision = "fastedgy_0001"
branch_labels = None
depends_on = None

UPGRADE = """
ALTER TABLE $tasks
    ADD COLUMN takes_results boolean NOT NULL DEFAULT false,
    ADD COLUMN gate_limit integer,
    ADD COLUMN gate_rate double precision,
    ADD COLUMN gate text,
    ADD COLUMN breaker text,
    ADD COLUMN stands_for uuid,
    ADD COLUMN schedule text,
    ADD COLUMN redact text[],
    ADD COLUMN trace text,
    ADD COLUMN signature text;

-- A task with a gate waits in a line of its own, so that the claim of all others never sees it.
DROP INDEX ${tasks}_ready;
CREATE INDEX ${tasks}_ready ON $tasks (queue, priority DESC, date_enqueued)
    WHERE state = 'enqueued' AND NOT alone AND gate IS NULL;
CREATE INDEX ${tasks}_gated ON $tasks (queue, gate, priority DESC, date_enqueued)
    WHERE state = 'enqueued' AND NOT alone AND gate IS NOT NULL;
CREATE INDEX ${tasks}_standing ON $tasks (stands_for)
    WHERE state = 'waiting' AND stands_for IS NOT NULL;
CREATE INDEX ${tasks}_gate_taken ON $tasks (gate) WITH (deduplicate_items = off)
    WHERE state = 'doing' AND gate IS NOT NULL;

-- What an operator asks of a worker: that it drains, or its whole supervisor.
ALTER TABLE $workers
    ADD COLUMN drain text,
    ADD COLUMN drain_by text,
    ADD CONSTRAINT ${workers}_drain_known CHECK (drain IN ('worker', 'supervisor'));

CREATE TABLE $queues (
    name text NOT NULL PRIMARY KEY,
    paused boolean NOT NULL DEFAULT false,
    max_running integer,
    rate double precision,
    next_at timestamptz,
    date_changed timestamptz NOT NULL DEFAULT clock_timestamp(),
    changed_by text
);

CREATE TABLE $gates (
    key text NOT NULL PRIMARY KEY,
    max_running integer,
    rate double precision,
    next_at timestamptz,
    date_changed timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (fillfactor = 50);

CREATE TABLE $breakers (
    name text NOT NULL PRIMARY KEY,
    state text NOT NULL DEFAULT 'closed',
    failures integer NOT NULL DEFAULT 0,
    successes integer NOT NULL DEFAULT 0,
    failure_threshold integer NOT NULL DEFAULT 5,
    success_threshold integer NOT NULL DEFAULT 2,
    reset_timeout double precision NOT NULL DEFAULT 30,
    opened_at timestamptz,
    probe uuid,
    probe_task uuid,
    probe_run integer,
    probe_until timestamptz,
    error text,
    date_changed timestamptz NOT NULL DEFAULT clock_timestamp(),
    opened bigint NOT NULL DEFAULT 0,
    CONSTRAINT ${breakers}_state_known CHECK (state IN ('closed', 'open', 'half_open'))
) WITH (fillfactor = 50);

CREATE TABLE $steps (
    date_started timestamptz NOT NULL DEFAULT clock_timestamp(),
    date_ended timestamptz,
    date_due timestamptz,
    task_id uuid NOT NULL,
    position integer NOT NULL,
    run integer NOT NULL,
    attempts integer NOT NULL DEFAULT 0,
    handled boolean NOT NULL DEFAULT false,
    kind text NOT NULL,
    state text NOT NULL,
    name text NOT NULL,
    event text,
    result jsonb,
    error_type text,
    error_message text,
    PRIMARY KEY (task_id, name),
    CONSTRAINT ${steps}_kind_known CHECK (
        kind IN ('step', 'sleep', 'event', 'saga', 'compensation')),
    CONSTRAINT ${steps}_state_known CHECK (state IN ('doing', 'waiting', 'done', 'failed'))
);
CREATE INDEX ${steps}_event ON $steps (event) WHERE state = 'waiting' AND event IS NOT NULL;

CREATE TABLE $events (
    key text NOT NULL PRIMARY KEY,
    payload jsonb,
    date_sent timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX ${events}_sent ON $events (date_sent);

CREATE TABLE $keys (
    kind text NOT NULL,
    key text NOT NULL,
    task_id uuid,
    run integer,
    state text NOT NULL,
    result jsonb,
    date_created timestamptz NOT NULL DEFAULT clock_timestamp(),
    date_expires timestamptz,
    PRIMARY KEY (kind, key),
    CONSTRAINT ${keys}_kind_known CHECK (kind IN ('idempotent', 'unique')),
    CONSTRAINT ${keys}_state_known CHECK (state IN ('doing', 'done'))
);
CREATE INDEX ${keys}_expires ON $keys (date_expires) WHERE date_expires IS NOT NULL;

CREATE TABLE $schedules (
    name text NOT NULL PRIMARY KEY,
    function text NOT NULL,
    args jsonb NOT NULL DEFAULT '[]',
    kwargs jsonb NOT NULL DEFAULT '{}',
    options jsonb NOT NULL DEFAULT '{}',
    task jsonb NOT NULL DEFAULT '{}',
    signature text,
    cron text,
    every double precision,
    at timestamptz,
    timezone text NOT NULL DEFAULT 'UTC',
    start_at timestamptz,
    end_at timestamptz,
    anchor timestamptz NOT NULL DEFAULT clock_timestamp(),
    jitter double precision NOT NULL DEFAULT 0,
    misfire_grace double precision,
    coalesce_missed boolean NOT NULL DEFAULT true,
    max_instances integer,
    paused boolean NOT NULL DEFAULT false,
    declared boolean NOT NULL DEFAULT false,
    declared_as jsonb,
    undeclared timestamptz,
    removed timestamptz,
    revision integer NOT NULL DEFAULT 0,
    next_due timestamptz,
    last_due timestamptz,
    last_fired timestamptz,
    last_task_id uuid,
    instances uuid[] NOT NULL DEFAULT '{}',
    fired bigint NOT NULL DEFAULT 0,
    missed bigint NOT NULL DEFAULT 0,
    missed_because text,
    error text,
    date_created timestamptz NOT NULL DEFAULT clock_timestamp(),
    date_changed timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT ${schedules}_one_trigger CHECK (num_nonnulls(cron, every, at) = 1)
) WITH (fillfactor = 50);
CREATE INDEX ${schedules}_due ON $schedules (next_due) WHERE NOT paused AND next_due IS NOT NULL;

CREATE TABLE $audit (
    id uuid NOT NULL PRIMARY KEY,
    date timestamptz NOT NULL DEFAULT clock_timestamp(),
    actor text NOT NULL,
    source text NOT NULL,
    action text NOT NULL,
    target text NOT NULL,
    details jsonb NOT NULL DEFAULT '{}'
);
CREATE INDEX ${audit}_target ON $audit (target, date);

-- A minute (60 seconds), an hour (3600) or all time (0) of one worker, queue and name. A worker
-- rewrites its newest rows every few seconds: room in the page keeps the versions together.
CREATE TABLE $rollups (
    seconds integer NOT NULL,
    minute timestamptz NOT NULL,
    worker_id uuid NOT NULL,
    queue text NOT NULL,
    name text NOT NULL,
    done bigint NOT NULL DEFAULT 0,
    failed bigint NOT NULL DEFAULT 0,
    cancelled bigint NOT NULL DEFAULT 0,
    retried bigint NOT NULL DEFAULT 0,
    run_seconds double precision NOT NULL DEFAULT 0,
    run_histogram bigint[] NOT NULL DEFAULT '{}',
    wait_histogram bigint[] NOT NULL DEFAULT '{}',
    PRIMARY KEY (seconds, minute, worker_id, queue, name)
) WITH (fillfactor = 50);
"""

DOWNGRADE = """
DROP TABLE $rollups;
DROP TABLE $audit;
DROP TABLE $schedules;
DROP TABLE $keys;
DROP TABLE $events;
DROP TABLE $steps;
DROP TABLE $breakers;
DROP TABLE $gates;
DROP TABLE $queues;
ALTER TABLE $workers DROP COLUMN drain_by, DROP COLUMN drain;
DROP INDEX ${tasks}_gate_taken;
DROP INDEX ${tasks}_standing;
DROP INDEX ${tasks}_gated;
DROP INDEX ${tasks}_ready;
ALTER TABLE $tasks
    DROP COLUMN takes_results, DROP COLUMN gate_limit, DROP COLUMN gate_rate, DROP COLUMN gate,
    DROP COLUMN breaker, DROP COLUMN stands_for, DROP COLUMN schedule, DROP COLUMN redact,
    DROP COLUMN trace, DROP COLUMN signature;
CREATE INDEX ${tasks}_ready ON $tasks (queue, priority DESC, date_enqueued)
    WHERE state = 'enqueued' AND NOT alone;
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
