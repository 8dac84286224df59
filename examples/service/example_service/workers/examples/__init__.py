"""Patterns for work that can go wrong in the middle, and the routes that start it."""

from example_service.workers.examples.advanced_patterns import (
    call_external_api_with_circuit_breaker,
    charge_in_line,
    convert_with_fallback,
    idempotent_payment,
    payment_saga,
    restock_with_partial_success,
)
from example_service.workers.examples.fastapi_integration import router

__all__ = [
    "call_external_api_with_circuit_breaker",
    "charge_in_line",
    "convert_with_fallback",
    "idempotent_payment",
    "payment_saga",
    "restock_with_partial_success",
    "router",
]
