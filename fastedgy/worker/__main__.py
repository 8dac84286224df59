"""The entry point of a worker process."""

from __future__ import annotations

import gc

if __name__ == "__main__":
    # Looks for garbage are an eighth of what the imports take, and there is next to none.
    gc.disable()
    from fastedgy.worker.process import main

    gc.freeze()
    gc.enable()
    main()
