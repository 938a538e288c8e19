"""Calls that travel together: each has its own result; one that kills its worker costs no other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest

from sim.parallel.processes import Failure, Item, Made, Result, Workers, make

CALLS = 50
DEADLY, WRONG = 17, 30


class Batches:
    """An executor whose batches grow, and whose worker dies of one item."""

    def __init__(self, size: int) -> None:
        self.size, self.sent, self.learnt = size, Counter[Any](), 0

    def room(self) -> int:
        return 3

    def batch(self) -> int:
        return self.size

    def learn(self, calls: int, spent_s: float) -> None:
        assert spent_s >= 0
        self.learnt += calls
        self.size += 1

    def submit(self, call: Callable[[Item], Result], items: list[Item]) -> Future[Made[Result]]:
        self.sent.update(items)
        future: Future[Made[Result]] = Future()
        if DEADLY in items:
            future.set_exception(MemoryError("killed"))
        else:
            future.set_result(make(call, items))
        return future

    def give_up(self, future: Future[Any]) -> None:
        raise AssertionError("no call was given up")

    def renew(self) -> bool:
        raise AssertionError("no executor broke")

    def failure(self, error: BaseException) -> Failure:
        return Failure.of(error)

    def close(self, *, now: bool) -> None:
        pass


def third(item: int) -> float:
    if item == WRONG:
        raise ValueError("bad luck")
    return item / 3


@pytest.mark.parametrize("size", [1, 4, 100])
def test_each_call_of_a_batch_has_its_own_result(size: int) -> None:
    executor = Batches(size)
    found = dict(Workers([executor]).run(third, range(CALLS)))
    wrong = {DEADLY: Failure("MemoryError: killed"), WRONG: Failure("ValueError: bad luck")}
    assert found == {item: item / 3 for item in range(CALLS)} | wrong
    assert executor.learnt == CALLS - 1


def test_only_the_calls_of_a_failed_batch_are_sent_again() -> None:
    executor = Batches(4)
    dict(Workers([executor]).run(third, range(CALLS)))
    again = {item for item, times in executor.sent.items() if times > 1}
    assert DEADLY in again
    assert len(again) < 20
    assert max(executor.sent.values()) == 2
