"""A supervisor in a process of its own, with fake workers: `supervise_fakes.py URL WORKERS`."""

import sys
from pathlib import Path

from fastedgy.config import QueuedTaskConfig, Settings
from fastedgy.supervisor import SupervisorOptions, run

sys.exit(
    run(
        SupervisorOptions(workers=int(sys.argv[2]), concurrency=2, log_format="json"),
        Settings(database_url=sys.argv[1]),
        QueuedTaskConfig(),
        command=(sys.executable, "-S", "-E", str(Path(__file__).with_name("fake_worker.py"))),
    )
)
