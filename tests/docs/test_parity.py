"""docs/parity.md: what it says of a feature names tests that exist."""

from __future__ import annotations

import re

from pages import ROOT, page

PAGE = "docs/parity.md"
WORDS = {"works", "differently", "left out", "not yet"}


def rows() -> list[list[str]]:
    """The cells of the tables."""
    found = [line.strip("| ").split(" | ") for line in page(PAGE).splitlines()]
    return [
        cells for cells in found if re.fullmatch(r"(★ )?[A-D]\d{3}(\u2013[A-D]\d{3})?", cells[0])
    ]


def test_every_id_is_there_once_with_one_of_four_words() -> None:
    ids = [cells[0].removeprefix("★ ") for cells in rows()]

    assert len(ids) > 100
    assert {id[0] for id in ids} == set("ABCD")
    assert len(set(ids)) == len(ids)
    assert all(len(cells) == 4 for cells in rows())
    assert {cells[2] for cells in rows()} <= WORDS


def test_what_was_promised_is_there() -> None:
    promised = [cells for cells in rows() if cells[0].startswith("★")]

    assert promised
    assert all(cells[2] in ("works", "differently") for cells in promised)
    assert all("tests/" in cells[3] for cells in promised)


def test_the_tests_that_it_names_exist() -> None:
    named = set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", page(PAGE)))

    assert len(named) > 50
    missing = [
        f"{path}::{test}"
        for path, test in sorted(named)
        if not (ROOT / path).is_file()
        or not re.search(
            rf"^(async )?def {test}\b", (ROOT / path).read_text(encoding="utf-8"), re.M
        )
    ]
    assert missing == []
