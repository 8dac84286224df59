"""The line of what is claimed and not started, which two threads may take from."""

from __future__ import annotations

from typing import Any

from fastedgy.worker.queued import Queued


class Fleeting(dict[str, Any]):
    """A row that another thread takes at the moment in which it is looked at."""

    def __init__(self, line: Queued, **columns: Any) -> None:
        super().__init__(columns)
        self._line = line

    def __getitem__(self, column: str) -> Any:
        if self in self._line:
            self._line.remove(self)
        return super().__getitem__(column)


def line_of(*rows: Any) -> Queued:
    line = Queued()
    line.extend(rows)
    return line


def test_what_another_thread_has_taken_is_not_taken_twice() -> None:
    line = Queued()
    gone: Any = Fleeting(line, id="gone", queue="mail")
    stays: Any = {"id": "stays", "queue": "mail"}
    line.extend([gone, stays])
    assert line.take_of(["mail"]) == [stays]
    assert list(line) == []

    line.append(gone)
    assert line.take("gone") is None
    assert list(line) == []


def test_one_is_taken_or_those_of_a_queue_or_all() -> None:
    mail, web, more = rows = [
        {"id": 1, "queue": "mail", "gate": None},
        {"id": 2, "queue": "web", "gate": "a"},
        {"id": 3, "queue": "mail", "gate": None},
    ]
    line = line_of(*rows)
    assert line.ids() == {1, 2, 3}
    assert line.gates() == {None, "a"}
    assert line.take(2) is web
    assert line.take_of(["mail"]) == [mail, more]
    assert line_of(*rows).take_all() == rows
