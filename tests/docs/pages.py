"""What the tests of the documentation share: its pages, and the code in them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

_FENCE = re.compile(r"^(?P<fence>`{3,})(?P<info>[^\n]*)\n(?P<code>.*?)^(?P=fence)\s*$", re.M | re.S)
_HEADING = re.compile(r"^#{1,6} +(.*?)\s*$", re.M)


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block: the language behind its fence, its code, the heading above it, its line."""

    language: str
    code: str
    heading: str
    line: int


def page(name: str) -> str:
    """The text of a page, by its path from the root of the repository."""
    return (ROOT / name).read_text(encoding="utf-8")


def blocks(name: str, *languages: str) -> list[Block]:
    """The fenced blocks of a page in their order; of these languages only, if any are named."""
    text = page(name)
    outside = _FENCE.sub(lambda found: re.sub(r"[^\n]", " ", found[0]), text)
    headings = [(found.start(), found[1]) for found in _HEADING.finditer(outside)]
    found = []
    for match in _FENCE.finditer(text):
        above = [title for start, title in headings if start < match.start()]
        language = match["info"].strip().split(" ")[0]
        line = text.count("\n", 0, match.start()) + 2
        if not languages or language in languages:
            found.append(Block(language, match["code"], above[-1] if above else "", line))
    return found
