"""The panel of one test, on the shared database."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).parent
if str(HERE) not in sys.path:
    sys.path.append(str(HERE))

from panels import clean_panel, database_url, panel, work  # noqa: E402, F401
