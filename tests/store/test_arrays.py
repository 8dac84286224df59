"""Arrays in text form come out as they went in."""

from __future__ import annotations

import asyncpg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastedgy.store.arrays import integers, texts

NASTY = [
    "",
    "NULL",
    "null",
    '"',
    '","',
    "\\",
    '\\"',
    "{}",
    "{a,b}",
    " ",
    "\n\r\t",
    "é漢🙂",
    "'",
    "$1",
    "\x1f",
]


@pytest.mark.parametrize("values", [[], [""], NASTY, *([value] for value in NASTY)])
async def test_texts(connection: asyncpg.Connection, values: list[str]) -> None:
    assert await connection.fetchval("SELECT $1::text::text[]", texts(values)) == values


@pytest.mark.parametrize("values", [[], [0], [-1, 2**31 - 1, 2**63 - 1, -(2**63)]])
async def test_integers(connection: asyncpg.Connection, values: list[int]) -> None:
    assert await connection.fetchval("SELECT $1::text::bigint[]", integers(values)) == values


@given(st.lists(st.text(alphabet='ab",\\{} é')))
def test_every_quote_is_a_delimiter_or_escaped(values: list[str]) -> None:
    written = texts(values)
    assert written[0] == "{"
    assert written[-1] == "}"
    read, inside, place = list[str](), False, 1
    while place < len(written) - 1:
        char = written[place]
        if char == '"':
            inside = not inside
            if inside:
                read.append("")
        elif char == "\\":
            place += 1
            read[-1] += written[place]
        elif inside:
            read[-1] += char
        else:
            assert char == ","
        place += 1
    assert read == values
