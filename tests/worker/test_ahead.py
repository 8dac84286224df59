"""How many tasks are claimed ahead, by what the last ones took."""

import pytest

from fastedgy.worker.ahead import AHEAD, MOST_AHEAD, MOST_AHEAD_GATED, Ahead


class Loop:
    """An event loop with 100 slots, and what passes in it."""

    def __init__(self) -> None:
        self.now = 1_000.0
        self.cpu = 7.0
        self.ahead = Ahead(100, clock=lambda: self.cpu)
        self.ahead.begin(self.now)

    def passes(self, seconds: float, *, ended: int, each: float, cpu: float) -> None:
        """So many tasks end, after `each` seconds, for which `cpu` seconds were used in all."""
        self.now += seconds
        self.cpu += cpu
        self.ahead.ended += ended
        self.ahead.worked += ended * each
        self.ahead.measure(self.now)

    def claimed_ahead(self) -> int:
        """How many it would claim while every slot is taken."""
        return self.ahead.room(0, 0, self.now)


@pytest.fixture
def loop() -> Loop:
    return Loop()


def test_nothing_is_claimed_ahead_of_tasks_that_nobody_knows(loop: Loop) -> None:
    assert loop.claimed_ahead() == 0
    assert loop.ahead.room(100, 0, loop.now) == 100
    assert loop.ahead.room(-3, 3, loop.now) == 0


def test_a_tenth_of_a_second_is_claimed_ahead_of_short_tasks(loop: Loop) -> None:
    loop.passes(0.1, ended=300, each=0.002, cpu=0.01)
    assert loop.claimed_ahead() == pytest.approx(300 / 0.1 * AHEAD, abs=1)


def test_there_is_a_limit_and_a_higher_one_for_those_with_gates(loop: Loop) -> None:
    loop.passes(0.1, ended=30_000, each=0.002, cpu=0.01)
    assert loop.claimed_ahead() == MOST_AHEAD
    loop.ahead.came(800, gated=True, idle=False)
    assert loop.claimed_ahead() == MOST_AHEAD_GATED


def test_nothing_is_claimed_ahead_of_long_tasks(loop: Loop) -> None:
    loop.passes(0.1, ended=200, each=0.05, cpu=0.01)
    assert loop.claimed_ahead() == 0


def test_tasks_that_wait_for_their_turn_are_short_all_the_same(loop: Loop) -> None:
    """100 at a time share a loop that is never idle: each is there for 8 ms and takes 0.08."""
    loop.passes(0.1, ended=1_250, each=0.008, cpu=0.095)
    assert loop.claimed_ahead() == MOST_AHEAD


def test_tasks_that_occupy_the_loop_are_long(loop: Loop) -> None:
    """100 of 4 ms each would be claimed ahead for 0.4 s."""
    loop.passes(0.1, ended=25, each=0.004, cpu=0.1)
    assert loop.claimed_ahead() == 0


def test_what_is_known_changes_with_the_tasks(loop: Loop) -> None:
    loop.passes(0.1, ended=300, each=0.002, cpu=0.01)
    assert loop.claimed_ahead() > 0
    loop.passes(0.1, ended=100, each=0.1, cpu=0.01)
    assert loop.claimed_ahead() == 0
    for _ in range(5):
        loop.passes(0.1, ended=300, each=0.002, cpu=0.01)
    assert loop.claimed_ahead() > 0


def test_a_first_look_does_not_wait_for_its_time(loop: Loop) -> None:
    loop.now += 0.01
    loop.ahead.ended, loop.ahead.worked = 100, 100 * 0.001
    assert loop.claimed_ahead() == 100


def test_one_short_task_in_one_slot_does_not_stand_for_many() -> None:
    ahead = Ahead(1, clock=lambda: 0.0)
    ahead.begin(7.0)
    ahead.ended, ahead.worked = 1, 0.0005
    assert ahead.room(0, 0, 7.001) == 1


def test_what_slept_while_the_loop_was_idle_is_long_though_it_ends_in_a_busy_moment(
    loop: Loop,
) -> None:
    loop.now += 0.01
    loop.cpu += 0.01
    loop.ahead.ended, loop.ahead.worked = 100, 100 * 1.0
    assert loop.claimed_ahead() == 0


def test_the_next_claim_is_due_before_the_last_tasks_are_started(loop: Loop) -> None:
    loop.passes(0.1, ended=30_000, each=0.002, cpu=0.01)
    assert loop.ahead.room(-601, 601, loop.now) == 0
    assert loop.ahead.low_water == 600
    assert loop.ahead.room(-600, 600, loop.now) == 200


def test_who_is_done_before_the_next_claim_arrives_asks_for_twice_as_much(loop: Loop) -> None:
    loop.passes(10.0, ended=100, each=0.001, cpu=0.01)  # a rate that says nothing
    asked = [loop.ahead.room(100, 0, loop.now)]
    for _ in range(4):
        loop.ahead.came(asked[-1], gated=False, idle=True)
        asked.append(loop.ahead.room(100, 0, loop.now))
    assert asked == [200, 200, 300, 500, 900]

    for _ in range(3):  # there was room for more: it lacked work, not room
        loop.ahead.came(1, gated=False, idle=True)
    assert loop.ahead.room(100, 0, loop.now) == 900

    for _ in range(5):
        loop.passes(10.0, ended=100, each=0.001, cpu=0.01)
    assert loop.ahead.room(100, 0, loop.now) == 200
