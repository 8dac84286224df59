"""A worker process that works at nothing but speaks the supervisor's protocol.

It obeys the lines of `$FAKE_WORKERS/<pid>.orders` and keeps a diary in `$FAKE_WORKERS/<pid>.diary`.
`$FAKE_START` is the first order: `ready` unless it says something else.
"""

import json
import os
import select
import signal
import subprocess
from pathlib import Path

assignment = json.loads(os.environ["FASTEDGY_WORKER"])
folder = Path(os.environ["FAKE_WORKERS"])
orders = folder / f"{os.getpid()}.orders"
diary = os.open(folder / f"{os.getpid()}.diary", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
stubborn = False
silent = False
terms = 0


def report(**line: object) -> None:
    os.write(assignment["report"], json.dumps(line).encode() + b"\n")


def note(line: str) -> None:
    os.write(diary, line.encode() + b"\n")  # may be interrupted by a signal's own note


def leave(code: int) -> None:
    report(event="leaving", code=code)
    os._exit(code)


def on_term(*_: object) -> None:
    global terms
    terms += 1
    note("SIGTERM")
    if not stubborn:
        report(event="draining")
        if terms > 1 or os.environ.get("FAKE_DRAIN") != "slow":
            leave(0)


def obey(order: str) -> None:
    global stubborn, silent
    word, _, rest = order.partition(" ")
    if word == "ready":
        note("ready")
        report(event="ready", busy=0)
    elif word == "say":
        report(**json.loads(rest))
    elif word == "mumble":
        os.write(assignment["report"], rest.encode() + b"\n")
    elif word == "start":  # tasks: their ids go to the board
        os.pwrite(assignment["board"], bytes.fromhex(rest), 0)
    elif word == "spawn":  # what a task may have started
        child = subprocess.Popen(["sleep", "60"])
        note(f"spawned {child.pid}")
    elif word == "stubborn":
        stubborn = True
    elif word == "silent":
        silent = True
    elif word == "exit":
        leave(int(rest))
    elif word == "abort":  # as a task may
        os._exit(int(rest))
    elif word == "die":
        signal.signal(int(rest), signal.SIG_DFL) if int(rest) != signal.SIGKILL else None
        os.kill(os.getpid(), int(rest))
    elif word == "refuse":
        report(event="failed", reason=rest)
        leave(78)


signal.signal(signal.SIGTERM, on_term)
note(json.dumps(assignment))
for order in os.environ.get("FAKE_START", "ready").split(";"):
    obey(order)

done = 0
while True:
    gone, _, _ = select.select([assignment["lifeline"]], [], [], 0.02)
    if gone:
        note("supervisor is gone")
        leave(0)
    lines = orders.read_text().splitlines() if orders.exists() else []
    for order in lines[done:]:
        obey(order)
    done = len(lines)
    if not silent:
        report(event="beat")
