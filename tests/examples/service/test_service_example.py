"""`examples/service` does what its README and the guide say, on real workers."""

from __future__ import annotations

import csv
import gzip
import hashlib
import hmac
import json
import os
import signal
from pathlib import Path
from typing import Any

import httpx
import pytest
from commands import shell
from helpers import create_database, drop_database, run, wait_until
from service_site import SERVICE, Service, kill

from fastedgy.database import connect

MANY = 40_000
"""Files that take about a second to delete: long enough to be in the middle of it."""


async def fetch(url: str, query: str) -> list[Any]:
    connection = await connect(url)
    try:
        return list(await connection.fetch(query))
    finally:
        await connection.close()


def seed(service: Service, day: str, count: int) -> None:
    """Put orders into the table: of 1, 2, 3 … by seven customers, one an hour."""
    service.execute(
        "INSERT INTO orders (customer, amount, placed)"
        f" SELECT 'c' || n % 7, n, timestamptz '{day} 00:00Z' + n % 24 * interval '1 hour'"
        f"   FROM generate_series(1, {count}) AS n"
    )


def signed(headers: dict[str, str], body: bytes) -> str:
    """The signature of a webhook, as its receiver computes it."""
    text = f"{headers['Webhook-Timestamp']}.".encode() + body
    return f"v1={hmac.digest(b'geheim', text, 'sha256').hex()}"


def test_the_http_calls_of_the_guide(service: Service) -> None:
    jobs = {job["job_id"]: job for job in service.get("/tasks/scheduled")}
    assert set(jobs) == {
        "nightly backup", "warm the cache", "temporary files", "old backups", "expired data",
        "reminders", "figures",
    }  # fmt: skip
    assert all(job["next_run_time"] for job in jobs.values())

    task = service.post("/tasks/examples/kick", {"data": {"test": "value"}})["task_id"]
    assert service.ends(task) == {"received": {"test": "value"}, "keys": ["test"]}

    assert service.post("/tasks/scheduled/reminders/pause")["is_paused"]
    assert service.get("/tasks/scheduled/reminders")["next_run_time"] is None
    assert not service.post("/tasks/scheduled/reminders/resume")["is_paused"]
    assert service.client.post("/tasks/scheduled/nobody/pause").status_code == 404
    assert service.client.get(f"/tasks/{'0' * 32}/status").status_code == 404


def test_the_readme_lists_what_there_is() -> None:
    text = (SERVICE / "README.md").read_text()
    for path in ("/tasks/scheduled", "/tasks/examples/kick", "/status", "reminders/pause"):
        assert path in text


def test_a_backup_goes_to_the_bucket_and_restores(service: Service, server_url: str) -> None:
    seed(service, "2025-03-01", 40)
    command = "fastedgy schedule run 'nightly backup'"
    task = shell(command, SERVICE, service.env).strip()
    made = service.ends(task)
    assert made["bytes"] > 1000
    empty = create_database(server_url)
    try:
        [restored] = service.add(("backup.tasks.restore_database", (made["key"], empty)))
        service.ends(restored)
        query = "SELECT count(*) AS n, sum(amount) AS total FROM orders WHERE placed < '2025-03-02'"
        restored_orders = run(fetch(empty, query))
        assert dict(restored_orders[0]) == {"n": 40, "total": sum(range(1, 41))}
        assert run(fetch(empty, "SELECT name FROM queued_task_schedules"))
    finally:
        drop_database(server_url, empty)
    [cleaned] = service.add(("cleanup.tasks.delete_old_backups", (), {"keep": 1}))
    assert service.ends(cleaned) == {"deleted": 0}


def test_orders_are_exported_as_csv_and_json(service: Service) -> None:
    seed(service, "2025-04-01", 1200)
    since = {"since": "2025-04-01T00:00:00+00:00", "until": "2025-04-02T00:00:00+00:00"}
    first, second = service.add(
        ("export.tasks.export_orders", ("csv",), since),
        ("export.tasks.export_orders", ("json",), since),
    )
    table, objects = service.ends(first), service.ends(second)
    assert table["rows"] == objects["rows"] == 1200
    with Path(table["path"]).open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows == json.loads(Path(objects["path"]).read_text())
    assert [row["amount"] for row in rows[:2]] == ["1.00", "2.00"]


def test_an_upload_is_looked_at_and_packed(service: Service) -> None:
    text = b"name,age\nAda,36\nAlan,41\n"
    answer = service.client.post("/files", files={"file": ("people.csv", text)})
    about = service.ends(answer.json()["task_id"])
    assert (about["columns"], about["rows"]) == (["name", "age"], 2)
    assert about["sha256"] == hashlib.sha256(text).hexdigest()
    assert gzip.decompress(Path(about["packed"]).read_bytes()) == text
    [missing] = service.add(("files.tasks.process_file", ("../main.py",)))
    assert "no upload" in service.ends(missing, "failed")


def test_mails_and_reminders_go_out_once(service: Service) -> None:
    service.postbox.mails.clear()
    body = {"recipient": "ada@example.com", "subject": "Hello", "body": "How are you?"}
    task = service.post("/send", body)["task_id"]
    assert service.ends(task) == {"status": "sent", "recipient": "ada@example.com"}
    refused = service.post("/send", {**body, "recipient": "unknown@example.com"})["task_id"]
    assert "was refused" in service.ends(refused, "failed")

    service.execute(
        "INSERT INTO reminders (email, text, due) SELECT 'r' || n || '@example.com', 'Now', now()"
        " FROM generate_series(0, 2) AS n"
        " UNION ALL SELECT 'later@example.com', 'Not yet', now() + interval '1 day'"
    )
    for _ in range(2):
        [looked] = service.add(("notifications.tasks.send_due_reminders",))
        service.ends(looked)

    def all_there() -> None:
        addresses = sorted(to for to, _ in service.postbox.mails)
        assert addresses == ["ada@example.com"] + [f"r{n}@example.com" for n in range(3)]

    wait_until(all_there)


def test_a_webhook_is_signed_and_repeated_until_it_is_taken(service: Service) -> None:
    receiver = service.receiver
    receiver.seen.clear()
    receiver.answers += [(503, {}), (429, {"Retry-After": "0"})]
    call = (receiver.url, "order.paid", {"id": 7}, "geheim")
    [task] = service.add(("webhooks.tasks.deliver_webhook", call))
    assert service.ends(task) == {"status": 200}
    assert len(receiver.seen) == 3
    assert {headers["Webhook-Id"] for headers, _ in receiver.seen} == {task}
    headers, body = receiver.seen[-1]
    assert headers["Webhook-Signature"] == signed(headers, body)
    assert json.loads(body) == {"event": "order.paid", "data": {"id": 7}}

    receiver.answers += [(410, {})]
    [gone] = service.add(("webhooks.tasks.deliver_webhook", call))
    assert "HTTP 410" in service.ends(gone, "failed")
    assert len(receiver.seen) == 4


def test_hours_become_days_weeks_and_months_also_when_a_worker_is_killed(
    service: Service,
) -> None:
    seed(service, "2025-05-06", 48)
    seed(service, "2025-05-07", 24)
    moments = [f"2025-05-0{day}T{hour:02}:00:00+00:00" for day in (6, 7) for hour in range(24)]
    roll = [("analytics.tasks.aggregate", ("hour", moment)) for moment in moments]
    ids = service.add(*roll)
    os.kill(service.workers()[0], signal.SIGKILL)
    for task in ids:
        service.ends(task)
    for level in ("day", "day", "week", "month"):
        [task] = service.add(
            ("analytics.tasks.aggregate", (level, moments[0] if level != "day" else moments[-1]))
        )
        service.ends(task)
    [task] = service.add(("analytics.tasks.roll_up", ("2025-05-06T01:00:00+00:00",)))
    for ref in service.ends(task).values():
        service.ends(ref)
    rows = service.execute(
        "SELECT level, orders, revenue FROM figures WHERE level <> 'hour' AND start >= '2025-05-01'"
        " AND start < '2025-05-07' ORDER BY level",
    )
    total = sum(range(1, 49))
    assert [(row["level"], row["orders"]) for row in rows] == [
        ("day", 48), ("month", 72), ("week", 72)
    ]  # fmt: skip
    assert rows[0]["revenue"] == total
    # The schedule of the service itself may have made some of today, if the hour has just ended.
    service.execute("DELETE FROM figures WHERE start > '2025-06-01'")
    [kpis, line] = service.add(
        ("analytics.tasks.compute_kpis", ("2025-05-07T12:00:00+00:00",)),
        ("analytics.tasks.trend", (), {"ahead": 1}),
    )
    found = service.ends(kpis)
    assert (found["orders"], found["revenue"], found["best_hour"]) == (24, 300.0, 24.0)
    assert found["growth"] == round(300 / total - 1, 4)
    assert service.ends(line)["forecast"] == [300 - (total - 300)]


def test_the_cache_is_warmed_read_and_emptied(service: Service) -> None:
    [task] = service.add(("cache.tasks.warm",))
    assert service.ends(task) == {"warmed": 2}
    best = service.get("/cache/customers:best")
    assert len(best) == 7
    [task] = service.add(("cache.tasks.invalidate", ("customers:",)))
    assert service.ends(task) == {"deleted": 1}
    assert service.client.get("/cache/customers:best").status_code == 404


@pytest.fixture
def old_file(service: Service) -> Path:
    folder = Path(service.env["SERVICE_DATA"]) / "tmp"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "forgotten"
    path.write_text("x" * 100)
    os.utime(path, (0, 0))
    return path


def test_what_has_had_its_day_is_cleaned_up(service: Service, old_file: Path) -> None:
    service.execute("INSERT INTO cache VALUES ('old', '1', '2001-01-01')")
    service.execute(
        "INSERT INTO reminders (email, text, due, sent)"
        " VALUES ('a', 'b', '2001-01-01', '2001-01-01')"
    )
    files, rows = service.add(
        ("cleanup.tasks.delete_temp_files",), ("cleanup.tasks.delete_expired_data",)
    )
    assert service.ends(files) == {"deleted": 1, "bytes": 100}
    assert not old_file.exists()
    assert service.ends(rows) == {"cache": 1, "reminders": 1}


def test_a_clean_up_goes_on_where_its_worker_was_killed(service: Service) -> None:
    folder = Path(service.env["SERVICE_DATA"]) / "tmp" / "many"
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(MANY):
        path = folder / str(number)
        path.touch()
        os.utime(path, (0, 0))
    [task] = service.add(("cleanup.tasks.delete_temp_files",))

    def begun() -> list[int]:
        assert len(os.listdir(folder)) < MANY
        return service.running([task])

    for pid in wait_until(begun):
        kill(pid)
    left = len(os.listdir(folder))
    assert left > 0, "it was over before its worker was killed"

    deleted = service.ends(task)["deleted"]
    assert deleted <= left  # at half past, the schedule of the same task may be faster
    assert os.listdir(folder) == []


def feed(fifo: Path, content: bytes) -> int:
    """Write into a pipe as soon as somebody reads from it; the end to be closed."""

    def opened() -> int:
        try:
            return os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
        except OSError as error:
            raise AssertionError(f"nobody reads from {fifo}") from error

    end = wait_until(opened)
    os.write(end, content)
    return end


def in_the_middle_of_packing(service: Service) -> tuple[str, bytes, Path, int]:
    """A task that packs an upload of which only a half has come so far.

    Its id, all of the upload, its place, and the pipe through which it comes.
    """
    content = os.urandom(20_000)
    upload = Path(service.env["SERVICE_DATA"]) / "uploads" / "killed.bin"
    upload.parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(upload)
    [task] = service.add(("files.tasks.process_file", (upload.name,)))
    os.close(feed(upload, content))

    def looked_at() -> None:
        seen = service.get(f"/tasks/{task}/status")["progress"]
        assert seen.get("sha256") == hashlib.sha256(content).hexdigest()

    wait_until(looked_at)
    return task, content, upload, feed(upload, content[:10_000])


def test_each_family_ends_right_though_its_workers_are_killed(
    service: Service, server_url: str
) -> None:
    seed(service, "2025-06-01", 600)
    service.execute(
        "INSERT INTO reminders (email, text, due, sent) VALUES"
        " ('due@example.com', 'Now', now(), NULL), ('b', 'Old', '2001-01-01', '2001-01-01')"
    )
    service.execute("INSERT INTO cache VALUES ('old', '1', '2001-01-01'), ('bad:1', '1', now())")
    june = {"since": "2025-06-01T00:00:00+00:00", "until": "2025-06-02T00:00:00+00:00"}
    call = (service.receiver.url, "order.paid", {"id": 8}, "geheim")
    data = Path(service.env["SERVICE_DATA"])
    gates = service.receiver.open, service.postbox.open

    for gate in gates:
        gate.clear()
    service.s3.send(signal.SIGSTOP)
    try:
        file, content, upload, pipe = in_the_middle_of_packing(service)
        backup, old, hook, mail = service.add(
            ("backup.tasks.backup_database",),
            ("cleanup.tasks.delete_old_backups", (), {"keep": 1}),
            ("webhooks.tasks.deliver_webhook", call),
            ("notifications.tasks.send_email", ("killed@example.com", "Hello", "How are you?")),
        )

        def outside() -> None:
            assert service.get(f"/tasks/{backup}/status")["progress"] == {"stage": "uploading"}
            assert hook in [headers["Webhook-Id"] for headers, _ in service.receiver.seen]
            assert "killed@example.com" in service.postbox.begun
            assert (data / "packed" / "killed.bin.part").exists()

        wait_until(outside)
        with service.locked("orders", "cache", "reminders"):
            inside = table, objects, warm, invalid, expired, due = service.add(
                ("export.tasks.export_orders", ("csv",), june),
                ("export.tasks.export_orders", ("json",), june),
                ("cache.tasks.warm",),
                ("cache.tasks.invalidate", ("bad:",)),
                ("cleanup.tasks.delete_expired_data",),
                ("notifications.tasks.send_due_reminders",),
            )
            tasks = [file, backup, old, hook, mail, *inside]
            for pid in wait_until(lambda: service.running(tasks)):
                kill(pid)
            # What they have left, and perhaps more of it.
            (data / "tmp" / f"orders-{table}.csv.part").write_text("id,customer\n1,half a l")
            os.close(pipe)
            upload.unlink()
            upload.write_bytes(content)
    finally:
        service.s3.send(signal.SIGCONT)
        for gate in gates:
            gate.set()

    made = service.ends(table, within=90)
    with Path(made["path"]).open(newline="") as exported:
        rows = list(csv.DictReader(exported))
    assert [row["amount"] for row in rows] == [f"{n}.00" for n in range(1, 601)]
    assert rows == json.loads(Path(service.ends(objects)["path"]).read_text())

    about = service.ends(file)
    assert about["sha256"] == hashlib.sha256(content).hexdigest()
    assert gzip.decompress(Path(about["packed"]).read_bytes()) == content
    assert not upload.exists()

    assert service.ends(hook) == {"status": 200}
    tries = [seen for seen in service.receiver.seen if seen[0]["Webhook-Id"] == hook]
    assert len(tries) == 2
    assert len({body for _, body in tries}) == 1
    for headers, body in tries:
        assert headers["Webhook-Signature"] == signed(headers, body)

    assert service.ends(mail)["status"] == "sent"
    assert service.ends(due)["due"] in (0, 1)  # the schedule of the same task may be faster
    service.ends(expired)
    service.ends(invalid)
    assert service.ends(warm) == {"warmed": 2}
    assert service.execute("SELECT key FROM cache WHERE key = 'old' OR key LIKE 'bad:%'") == []
    assert service.execute("SELECT FROM reminders WHERE text = 'Old'") == []
    assert dict(service.get("/cache/customers:best"))["c1"] > 0

    def once_each() -> None:
        addresses = [to for to, _ in service.postbox.mails]
        assert [addresses.count(f"{who}@example.com") for who in ("killed", "due")] == [1, 1]

    wait_until(once_each)

    service.ends(old)
    ids = ",".join(tasks)
    [row] = service.execute(
        f"SELECT count(*) AS n FROM queued_tasks WHERE id = ANY ('{{{ids}}}'::uuid[])"
        """ AND history @> '[{"what": "lost"}]'"""
    )
    assert row["n"] == len(tasks), "each was in the middle when its worker was killed"
    key = service.ends(backup)["key"]
    listing = httpx.get(f"{service.bucket}/backups?list-type=2&prefix=database/").text
    assert listing.count(f"<Key>{key}</Key>") == 1
    empty = create_database(server_url)
    try:
        [restored] = service.add(("backup.tasks.restore_database", (key, empty)))
        service.ends(restored)
        [row] = run(fetch(empty, "SELECT count(*) AS n FROM orders WHERE placed >= '2025-06-01'"))
        assert row["n"] == 600
    finally:
        drop_database(server_url, empty)
