"""Functions for the tests of the task author's room: as they stand in applications."""

from __future__ import annotations

import enum
import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any, Literal, NewType, Optional
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, SecretStr, computed_field

from fastedgy.dependencies import Inject
from fastedgy.queued_task import task

if TYPE_CHECKING:
    from somewhere import Nothing


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Size(enum.IntEnum):
    SMALL = 1
    LARGE = 2


class Word(enum.StrEnum):
    YES = "yes"


@dataclass
class Point:
    x: int
    y: int = 0
    _hidden: str = "kept"
    area: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self.area = self.x * self.y


class Line(BaseModel):
    sku: str
    price: Decimal
    tags: set[str] = set()


class Order(BaseModel):
    model_config = ConfigDict(strict=True)

    id: UUID
    ordered: datetime
    lines: list[Line] = []
    customer: str = Field(alias="customerName")
    note: str = Field("", validation_alias="n", serialization_alias="noteText")

    @computed_field  # type: ignore[prop-decorator]
    @property
    def total(self) -> Decimal:
        return sum((line.price for line in self.lines), Decimal(0))


class Login(BaseModel):
    user: str
    password: SecretStr


class Mailer:
    pass


OrderId = NewType("OrderId", UUID)


async def send(to: str, subject: str, body: str = "", *, copies: int = 1) -> dict[str, Any]:
    return {"to": to, "subject": subject, "body": body, "copies": copies}


def nothing() -> None:
    """Takes nothing, gives nothing."""


def by_position(first: int, second: int = 0, /, third: int = 0) -> None: ...


def needs_keyword(a: int, *, b: int) -> None: ...


def anything(*args: Any, **kwargs: Any) -> None: ...


def typed_rest(first: int, *dates: date, **points: Point) -> None: ...


def injected(order_id: int, mailer: Mailer = Inject(Mailer), urgent: bool = False) -> None: ...


def annotated_injected(
    order_id: int, mailer: Annotated[Mailer, Inject(Mailer)], urgent: bool = False
) -> None: ...


def everything(
    when: datetime,
    day: date,
    id: UUID,
    amount: Decimal,
    color: Color,
    size: Size,
    point: Point,
    order: Order,
) -> None: ...


def containers(
    maybe: datetime | None = None,
    old_maybe: Optional[UUID] = None,  # noqa: UP045
    many: list[Decimal] = [],  # noqa: B006
    named: dict[str, Point] = {},  # noqa: B006
    pair: tuple[int, date] | None = None,
    implicit: datetime = None,  # type: ignore[assignment]  # noqa: RUF013
    new: OrderId | None = None,
    limited: Annotated[Decimal, Field(gt=0)] = Decimal(1),
    quoted: list["Color"] = [],  # noqa: B006, UP037
) -> None: ...


def plain(
    a: int, b: str | None, c: list[dict[str, Any]], d: Literal["x", 1], e: Any = None, f=None
) -> None: ...


def unknown_annotation(when: Nothing, day: date) -> None: ...


def service_annotation(mailer: Mailer, call: Callable[..., Any] | None = None) -> None: ...


def waits(for_: timedelta) -> None: ...


def numbers():
    yield 1


async def async_numbers():
    yield 1


def _private() -> None: ...


@task
def _decorated_private() -> None: ...


@task(
    name="report",
    queue="reports",
    max_retries=1,
    unique_key="report:{report_id}:{kind}",
    redact=("password",),
    retry_on=(OSError, ValueError),
    no_retry_on=FileNotFoundError,
    backoff=[1, 2],
)
async def report(report_id: int, kind: str = "pdf", password: str = "", **more: Any) -> None: ...


class Service:
    @staticmethod
    def run(number: int) -> None: ...

    def method(self, number: int) -> None: ...

    @classmethod
    def make(cls) -> None: ...

    def __call__(self) -> None: ...


def traced(func: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(func)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return func(*args, **kwargs)

    return wrapper


def careless(func: Callable[..., Any]) -> Callable[..., Any]:
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return func(*args, **kwargs)

    return wrapper


@traced
def wrapped(when: datetime) -> None: ...


@careless
def badly_wrapped() -> None: ...


def make_nested() -> Callable[[], None]:
    def inner() -> None: ...

    return inner


def _replaced() -> None: ...


original = _replaced
_replaced = nothing  # type: ignore[assignment]
a_lambda = lambda: None  # noqa: E731
