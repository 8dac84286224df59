"""Another process of the service: adds the tasks that it reads from its input, prints their ids."""

from __future__ import annotations

import asyncio
import importlib
import json
import sys

sys.path.insert(0, ".")

from example_service.main import app

from fastedgy.app import running


async def main() -> None:
    """One list of calls a line: module, function, arguments, arguments by name."""
    async with running(app) as tasks:
        while line := await asyncio.to_thread(sys.stdin.readline):
            refs = [
                tasks.add_task(
                    getattr(importlib.import_module(f"example_service.workers.{module}"), name),
                    *args,
                    **kwargs,
                )
                for module, name, args, kwargs in json.loads(line)
            ]
            print(json.dumps([str(await ref.get_task_id()) for ref in refs]), flush=True)


asyncio.run(main())
