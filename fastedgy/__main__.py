"""`python -m fastedgy` is the command `fastedgy`."""

from __future__ import annotations

from fastedgy.cli import main

if __name__ == "__main__":
    main(prog_name="fastedgy")
