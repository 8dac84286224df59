"""Options that several commands share, and the types of their values."""

from __future__ import annotations

import math
import re
import sys
from datetime import UTC, datetime, timedelta

import click

_UNITS = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}
_SPAN = re.compile(r"(\d+(?:\.\d+)?)\s*(s|min|m|h|d|w)")

as_json = click.option("--json", "as_json", is_flag=True, help="JSON on stdout, for scripts.")
app_option = click.option(
    "--app", metavar="MODULE:ATTRIBUTE", help="The application, if it is not found."
)
served_app_option = click.option(
    "--app", metavar="MODULE:ATTRIBUTE", help="The application. Default: app in main.py, app.py, …"
)
yes = click.option("--yes", "-y", is_flag=True, help="Do not ask.")


def span(text: str) -> timedelta:
    """The type of an option that is a span of time: 90s, 15m, 2h, 7d, 1h30m."""
    parsed = parse_span(text)
    if parsed is None:
        raise click.BadParameter(f"{text!r} is not a span of time such as 90s, 15m, 2h or 7d.")
    return parsed


def moment(text: str) -> datetime:
    """The type of an option that is a moment.

    How long ago (2h), a day (2025-01-31, today, yesterday) or a time (ISO 8601); local where no
    zone is given.
    """
    word = text.strip()
    today = datetime.now().astimezone().replace(hour=0, minute=0, second=0, microsecond=0)
    try:
        if word in ("today", "yesterday"):
            return today - timedelta(days=word == "yesterday")
        if (ago := parse_span(word)) is not None:
            return datetime.now(UTC) - ago
        parsed = datetime.fromisoformat(word)
        return parsed if parsed.tzinfo else parsed.astimezone()
    except (ValueError, OverflowError):
        raise click.BadParameter(
            f"{text!r} is neither a span of time (2h, 7d), nor today, yesterday, or a date such as "
            "2025-01-31 or 2025-01-31T12:00."
        ) from None


def parse_span(text: str) -> timedelta | None:
    """`1h30m` as a timedelta; None if it is not a span or longer than there are days for."""
    text = text.strip().lower()
    if not text or _SPAN.sub("", text).strip():
        return None
    seconds = math.fsum(float(number) * _UNITS[unit] for number, unit in _SPAN.findall(text))
    try:
        return timedelta(seconds=seconds)
    except OverflowError:
        return None


def names(text: str) -> list[str]:
    """The type of an option that is names separated by commas, at least one."""
    found = [name.strip() for name in text.split(",") if name.strip()]
    if not found:
        raise click.BadParameter("no name is given.")
    return found


def confirm(question: str, *, yes: bool) -> None:
    """Ask before something that cannot be undone.

    Raises a usage error where nobody can be asked, and aborts if the answer is no.
    """
    if yes:
        return
    if not is_terminal():
        raise click.UsageError("There is no terminal to ask in: say --yes if you mean it.")
    click.confirm(question, abort=True, err=True)


def is_terminal() -> bool:
    """Whether a person sits at the standard input."""
    return sys.stdin.isatty()
