"""The rules that `benchmarks.mutations` breaks are where it looks for them."""

from __future__ import annotations

import pytest

from benchmarks.mutations import MUTATIONS, ROOT, Mutation


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_a_mutation_changes_lines_that_are_there(mutation: Mutation) -> None:
    text = (ROOT / mutation.file).read_text()
    assert [old for old, _ in mutation.change if old not in text] == []
    elsewhere = [old for old, _ in mutation.change if text.count(old) > 1]
    assert elsewhere == [] or mutation.name == "skip locked", "that breaks more than the one rule"
    assert [name for name in mutation.tests if not (ROOT / name).is_file()] == []
