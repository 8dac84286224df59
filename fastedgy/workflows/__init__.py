"""How tasks hang together: chains, groups, durable steps, sagas, circuit breakers, idempotency."""

from __future__ import annotations

from fastedgy.errors import CircuitOpen
from fastedgy.workflows.breaker import CircuitBreaker
from fastedgy.workflows.bundle import Progress
from fastedgy.workflows.chain import Chain, chain
from fastedgy.workflows.group import Group, group
from fastedgy.workflows.idempotency import idempotent
from fastedgy.workflows.saga import Saga
from fastedgy.workflows.steps import send_event, sleep, step, wait_for_event

__all__ = [
    "Chain",
    "CircuitBreaker",
    "CircuitOpen",
    "Group",
    "Progress",
    "Saga",
    "chain",
    "group",
    "idempotent",
    "send_event",
    "sleep",
    "step",
    "wait_for_event",
]
