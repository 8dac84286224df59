"""Exports: what is in a table, as a file that somebody can open."""

from example_service.workers.export.tasks import export_orders

__all__ = ["export_orders"]
