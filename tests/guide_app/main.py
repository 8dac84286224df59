"""The application that the guide's routes belong to."""

from __future__ import annotations

from fastedgy.app import FastEdgy
from guide_app import gallery, notify, orders

app = FastEdgy()
for module in (notify, orders, gallery):
    app.include_router(module.router)
