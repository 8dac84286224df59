"""Files: what people upload is looked at by a worker, not by the route that took it."""

from example_service.workers.files.tasks import process_file

__all__ = ["process_file"]
