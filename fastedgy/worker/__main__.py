"""The entry point of a worker process."""

from __future__ import annotations

import gc
import logging
import os
import sys

if __name__ == "__main__":
    # Looks for garbage are an eighth of what the imports take, and there is next to none.
    gc.disable()
    from fastedgy.worker.process import main

    gc.freeze()
    gc.enable()
    code = main()
    logging.shutdown()
    sys.stdout.flush()
    # Threads of sync functions that are left behind must not keep the process: their rows say that
    # they ended with it.
    os._exit(code)
