"""What answers look like, for the documentation."""

from __future__ import annotations

from typing import Any

from fastedgy.admin.api.problems import problems

ID = "01975c1e-8f3a-7b52-9c1d-2f6e0a4b7c11"
PARENT = "01975c1e-8f3a-7b52-9c1d-2f6e0a4b7c10"
WORKER = "01975c1d-0000-7000-8000-0000000000aa"
MOMENT = "2026-11-21T12:00:01.204000Z"

SUMMARY: dict[str, Any] = {
    "id": ID, "name": "send_email", "state": "failed", "queue": "mail", "priority": 0,
    "attempt": 4, "max_retries": 3, "arguments": "'ann@example.com', token=[redacted]",
    "date_created": MOMENT, "date_enqueued": MOMENT, "date_due": None, "date_started": MOMENT,
    "date_ended": MOMENT, "duration": 0.31, "progress": 60, "stage": "sending",
    "error_type": "SMTPServerDisconnected", "error": "Connection unexpectedly closed",
    "worker_id": WORKER, "worker": "web-3/1712", "unique_key": None, "gate": None,
    "schedule": None, "cancel_requested": False,
}  # fmt: skip
PAGE = {"items": [SUMMARY], "next": "eyJhIjoxfQ", "searched_to": None}
LOG = {
    "run": 1, "seq": 0, "logged_at": MOMENT, "level": "info", "logger": "shop.mail",
    "message": "Connected", "info": None,
}  # fmt: skip
TREE = {"root": ID, "nodes": [SUMMARY], "edges": [[PARENT, ID]], "truncated": False}
STATUS = {
    "id": ID, "state": "doing", "attempt": 2, "max_retries": 3, "progress": 60.0,
    "stage": "sending", "error_type": None, "error_message": None, "ended": False,
}  # fmt: skip
POINT = {
    "minute": MOMENT, "seconds": 60, "done": 1204, "failed": 2, "retried": 3, "cancelled": 0,
    "run_ms_mean": 12.5, "run_ms_p50": 8.1, "run_ms_p95": 40.2, "wait_ms_p50": 1.9,
    "wait_ms_p95": 4.4, "wait_ms_p99": 9.0,
}  # fmt: skip
NAME = {
    "name": "send_email", "done": 1204, "failed": 2, "retried": 3, "cancelled": 0,
    "duration_ms_mean": 12.5, "duration_ms_p50": 8.1, "duration_ms_p95": 40.2,
    "duration_ms_p99": 90.3, "wait_ms_p50": 1.9, "wait_ms_p95": 4.4, "wait_ms_p99": 9.0,
}  # fmt: skip
QUEUE = {
    "name": "mail", "depth": 3, "depth_estimated": False, "oldest_due_seconds": 0.4, "doing": 22,
    "paused": False, "max_running": 10, "rate": None, "workers": 2, "slots": 200,
    "in_per_minute": 1200.0, "out_per_minute": 1204.0, "seconds_to_empty": 0.2,
}  # fmt: skip
PREVIEW = {
    "action": "retry", "total": 312, "at_least": False, "states": {"failed": 312},
    "queues": {"mail": 312}, "names": {"send_email": 312}, "sentence": "Retries 312 tasks.",
}  # fmt: skip
PROGRESS = {
    "operation": ID, "action": "retry", "seen": 312, "changed": 310, "total": 312,
    "finished": True, "details": {},
}  # fmt: skip
EXPLANATION = {
    "id": ID, "name": "send_email", "queue": "mail", "state": "enqueued", "ready": False,
    "sentence": "The queue mail is paused.",
    "reasons": [
        {
            "code": "queue_paused", "text": "The queue mail is paused.",
            "cure": "fastedgy queue resume mail", "holds": True, "details": {},
        }
    ],
    "position": None, "expected_seconds": None, "checked_at": MOMENT,
}  # fmt: skip
AUDIT = {
    "id": ID, "date": MOMENT, "actor": "ann", "source": "api", "action": "queue.pause",
    "target": "queue:mail", "details": {},
}  # fmt: skip
HEALTH = {
    "level": "degraded", "sentence": "Queue mail has no worker; 412 tasks wait.",
    "reasons": ["Queue mail has no worker since 02:51."],
}  # fmt: skip
DETAILS = {
    "id": ID, "name": "send_email", "state": "failed", "queue": "mail", "priority": 0,
    "attempt": 4, "date_enqueued": MOMENT, "date_started": MOMENT, "date_ended": MOMENT,
    "date_created": MOMENT, "date_due": None, "function": "shop.mail:send_email",
    "args": ["ann@example.com"], "kwargs": {"token": "[redacted]"}, "context": {"progress": 60},
    "result": None, "timeout": None, "run": 4, "max_retries": 3, "losses": 0, "alone": False,
    "waiting_on": 0, "cancel_requested": False, "auto_remove": False,
    "on_parent_failure": "cancel", "unique_key": None, "error_type": "SMTPServerDisconnected",
    "error_message": "Connection unexpectedly closed", "error_traceback": "Traceback …",
    "history": [{"run": 1, "attempt": 1, "what": "retry"}], "worker_id": WORKER,
    "worker": "web-3/1712", "parents": [], "parent_count": 0, "children": [],
    "children_by_state": {},
}  # fmt: skip
STATES = {
    "counts": {"scheduled": 120, "waiting": 14, "enqueued": 3, "doing": 22, "done": 1200000,
               "failed": 7, "cancelled": 2},
    "estimated": ["done"],
}  # fmt: skip
WORKERS = {"servers": 1, "processes": 2, "active": 1, "idle": 1, "slots": 200, "busy": 22}
OVERVIEW = {
    "sentence": "All well: 1,204 tasks a minute, nothing waits longer than 0.4 s.",
    "level": "healthy", "reasons": [], "states": STATES, "queues": [QUEUE], "workers": WORKERS,
    "per_minute": 1204.0, "pick_up_ms_p95": 4.4, "last_hour": {"done": 72240, "failed": 2},
    "slowest": [SUMMARY], "oldest": [], "failing": [NAME], "busiest": [NAME],
}  # fmt: skip
STATS = {
    "hours": 24, "done": 1204, "failed": 2, "retried": 3, "cancelled": 0, "running": 22,
    "duration_ms_mean": 12.5, "duration_ms_p50": 8.1, "duration_ms_p95": 40.2,
    "duration_ms_p99": 90.3, "wait_ms_p50": 1.9, "wait_ms_p95": 4.4, "wait_ms_p99": 9.0,
    "states": STATES, "names": [NAME],
}  # fmt: skip
WORKER_INFO = {
    "id": WORKER, "server_name": "web-3", "pid": 1712, "supervisor_id": None, "state": "running",
    "alive": True, "is_web": False, "queues": [], "concurrency": 100, "busy": 1,
    "version": "0.1.0", "memory_mb": 84, "counters": {"done": 1204}, "date_started": MOMENT,
    "last_heartbeat": MOMENT, "silent_for": 1.2, "drain": None,
    "tasks": [{"id": ID, "name": "send_email", "queue": "mail", "date_started": MOMENT,
               "cancel_requested": False}],
}  # fmt: skip
FINDING: dict[str, Any] = {
    "code": "queue_without_worker", "severity": "error", "title": "No worker serves queue mail.",
    "meaning": "Its tasks do not run.", "evidence": "412 tasks wait since 02:51.",
    "cure": "Start one: fastedgy queue start --queues mail", "fix": None, "details": {},
}  # fmt: skip
CURE = {
    "code": "missing_index", "title": "The index queued_tasks_ready is missing.",
    "statements": ["CREATE INDEX CONCURRENTLY queued_tasks_ready ON queued_tasks …"],
    "error": None,
}  # fmt: skip
DRAIN = {
    "name": WORKER, "workers": [WORKER], "supervisors": [], "running": 1,
    "sentence": "Worker web-3/1712 takes no more tasks and ends; its supervisor starts another "
    "one. 1 task runs there: what does not end within QUEUE_DRAIN_TIMEOUT goes back to the line.",
}  # fmt: skip
QUEUE_CHANGE = {"name": "mail", "depth": 412, "known": True, "warning": None}
TREE_CHANGE = {"action": "cancel", "changed": 12}
BREAKER = {
    "name": "payments", "state": "open", "failures": 5, "successes": 0, "failure_threshold": 5,
    "success_threshold": 2, "reset_timeout": 30.0, "opened_at": MOMENT, "probing": False,
    "error": "ConnectTimeout", "date_changed": MOMENT, "rest": 12.5,
    "opened": 3,
}  # fmt: skip
SCHEDULE: dict[str, Any] = {
    "name": "nightly", "function": "shop.reports:build", "state": "active",
    "trigger": "0 2 * * * (Europe/Paris)", "next_due": MOMENT, "last_due": None,
    "last_fired": None, "last_task_id": None, "fired": 12, "missed": 0, "missed_because": None,
    "error": None, "cron": "0 2 * * *", "every": None, "at": None, "timezone": "Europe/Paris",
    "start": None, "end": None, "jitter": 0.0, "misfire_grace": 60.0, "coalesce": True,
    "max_instances": 1, "declared": True, "date_created": MOMENT, "date_changed": MOMENT,
    "args": [], "kwargs": {}, "options": {}, "changed": [],
}  # fmt: skip
TASK_EVENTS = (
    'id: 1.0.-1\nevent: log\ndata: {"run":1,"seq":0,"level":"info","message":"Connected"}\n\n'
    'id: 1.0.-1\nevent: progress\ndata: {"context":{"progress":60}}\n\n'
    'id: 1.0.-1\nevent: state\ndata: {"state":"done","attempt":1}\n\n'
    'id: 1.0.-1\nevent: result\ndata: {"state":"done","result":42}\n\n'
)
QUEUE_EVENTS = (
    'id: 5f3a-1\nevent: overview\ndata: {"sentence":"All well: …"}\n\n'
    'id: 5f3a-2\nevent: tasks\ndata: {"started":12,"ended":{"done":12},"tasks":[]}\n\n'
)
METRICS = (
    "# HELP queued_tasks_total Tasks that ended, by how.\n# TYPE queued_tasks_total counter\n"
    'queued_tasks_total{queue="mail",status="done",task_name="send_email"} 1204.0\n'
)


def answers(
    example: Any, *statuses: int, description: str = "What was asked for."
) -> dict[int | str, dict[str, Any]]:
    """A route's `responses`: the example of its answer, and its errors."""
    body = {"description": description, "content": {"application/json": {"example": example}}}
    return {200: body, **problems(*statuses)}
