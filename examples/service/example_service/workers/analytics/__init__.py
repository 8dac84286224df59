"""Analytics: hours become days, days become weeks and months; key figures and a trend."""

from example_service.workers.analytics.tasks import aggregate, compute_kpis, roll_up, trend

__all__ = ["aggregate", "compute_kpis", "roll_up", "trend"]
