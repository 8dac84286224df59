"""Where `fastedgy` looks for the application."""

from example_service.main import app

__all__ = ["app"]
