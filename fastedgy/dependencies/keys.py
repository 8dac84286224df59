"""Under what a service is known: its class, or a token."""

from __future__ import annotations

from typing import Any, Generic, TypeAlias, TypeVar

T = TypeVar("T")


class Token(Generic[T]):
    """A key for one of several services of the same type: `Token[Database]("reports")`.

    Two tokens of the same name are the same key.
    """

    __slots__ = ("__orig_class__", "name")

    def __init__(self, name: str) -> None:
        self.name = name

    def __eq__(self, other: object) -> bool:
        return self.name == other.name if isinstance(other, Token) else NotImplemented

    def __hash__(self) -> int:
        return hash((Token, self.name))

    def __repr__(self) -> str:
        return f"Token({self.name!r})"


ProviderKey: TypeAlias = type[Any] | Token[Any]
"""What services are registered under. Generic aliases and NewTypes work as keys, too."""


def key_name(key: object) -> str:
    """A key as error messages and logs show it."""
    if isinstance(key, type):
        return key.__qualname__.rpartition("<locals>.")[2]
    return repr(key).removeprefix("typing.")


def chain_name(chain: tuple[object, ...]) -> str:
    """Who needs whom: `Orders → Mailer → Settings`."""
    return " → ".join(key_name(key) for key in chain)
