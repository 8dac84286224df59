"""Reports: data is collected, laid out and delivered, one report or a batch of them."""

from example_service.workers.reports.tasks import (
    batch_generate_reports,
    generate_and_deliver_report,
    generate_conditional_report,
)

__all__ = ["batch_generate_reports", "generate_and_deliver_report", "generate_conditional_report"]
