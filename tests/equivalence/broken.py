"""Recurrences that are wrong on purpose: a comparison that lets one pass compares too little."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from sim.engines import recurrence
from sim.engines.controller import Wait
from sim.engines.program import Link, Program, Times


def without(program: Program, node: int, link: int) -> Program:
    """Return `program` less one link."""
    nodes = list(program.nodes)
    inputs = list(nodes[node].inputs)
    del inputs[link]
    nodes[node] = nodes[node]._replace(inputs=tuple(inputs))
    return replace(program, nodes=tuple(nodes))


def relinked(program: Program, change: Callable[[Link], Link]) -> Iterator[Program]:
    """Yield `program` with one link changed, for each that the change makes another."""
    for index, node in enumerate(program.nodes):
        for place, link in enumerate(node.inputs):
            if change(link) != link:
                nodes, inputs = list(program.nodes), list(node.inputs)
                inputs[place] = change(link)
                nodes[index] = node._replace(inputs=tuple(inputs))
                yield replace(program, nodes=tuple(nodes))


def reordered(program: Program) -> Iterator[Program]:
    """Yield `program` with two tasks of an order in each other's place."""
    for pool, order in enumerate(program.orders):
        for at in range(len(order) - 1):
            orders = list(program.orders)
            orders[pool] = (*order[:at], order[at + 1], order[at], *order[at + 2 :])
            yield replace(program, orders=tuple(orders))


def all_relinked(program: Program, change: Callable[[Link], Link]) -> Program:
    """Return `program` with every link changed."""
    nodes = [node._replace(inputs=tuple(map(change, node.inputs))) for node in program.nodes]
    return replace(program, nodes=tuple(nodes))


class Late(recurrence.RecurrenceEngine):
    """A recurrence that is one step off: durations count from the step after their own."""

    def _answer(self, micro_batch: int, now_ns: int, answer: Times | Wait) -> None:
        if isinstance(answer, Times):
            late = self.__dict__.setdefault("late", {})
            answer, late[micro_batch] = late.get(micro_batch, answer), answer
        super()._answer(micro_batch, now_ns, answer)


class Early(recurrence.RecurrenceEngine):
    """A recurrence whose steps begin when the last task ends, with no host gap before them."""

    def _answer(self, micro_batch: int, now_ns: int, answer: Times | Wait) -> None:
        gap_ns = int(self._delay_rows[micro_batch, self.program.closing_delay])
        super()._answer(micro_batch, max(0, now_ns - gap_ns), answer)


class Forgetful(recurrence.RecurrenceEngine):
    """A recurrence that does not carry over to a step when its servers got free."""

    def _answer(self, micro_batch: int, now_ns: int, answer: Times | Wait) -> None:
        if micro_batch == 0:
            self.ends_ns[:] = np.minimum(self.ends_ns, now_ns)
        super()._answer(micro_batch, now_ns, answer)
