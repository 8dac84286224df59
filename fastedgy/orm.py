"""Edgy, bound to the application's registry: `class Book(Model): title = fields.CharField(…)`."""

from __future__ import annotations

import edgy
from edgy import Database, Registry, fields

from fastedgy.database import registry

__all__ = ["Database", "Model", "Registry", "fields", "registry"]


class Model(edgy.Model):
    """A model of the application, in the database that `DATABASE_URL` names."""

    class Meta:
        abstract = True
        registry = registry
