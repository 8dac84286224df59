"""How tasks hang together: durable steps, sagas, circuit breakers, idempotent effects."""

from __future__ import annotations

from fastedgy.errors import CircuitOpen
from fastedgy.workflows.breaker import CircuitBreaker
from fastedgy.workflows.idempotency import idempotent
from fastedgy.workflows.saga import Saga
from fastedgy.workflows.steps import send_event, sleep, step, wait_for_event

__all__ = [
    "CircuitBreaker",
    "CircuitOpen",
    "Saga",
    "idempotent",
    "send_event",
    "sleep",
    "step",
    "wait_for_event",
]
