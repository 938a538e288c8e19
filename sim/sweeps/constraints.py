"""Constraints: which combinations of a sweep's axes are points, as comparisons of arithmetic.

    deployment.attention.instances + deployment.ffn.instances <= 8

A name is a dotted path to a number of the point's scenario, or `gpus`, all GPUs of the deployment.
The text is parsed into a tree in which every node is one of the few below, and never executed.
"""

from __future__ import annotations

import ast
import operator
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from sim.foundation.errors import did_you_mean

Number = int | float

_ARITHMETIC: dict[type[ast.operator], Callable[[Number, Number], Number]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_COMPARISONS: dict[type[ast.cmpop], Callable[[Number, Number], bool]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}
_EXAMPLE = "e.g. deployment.attention.instances + deployment.ffn.instances <= 8"


class UnknownPathError(LookupError):
    """A path of a constraint stands for no number of the scenario."""


def _checked(text: str) -> str:
    _parse(text)
    return text


Constraint = Annotated[str, Field(max_length=300), AfterValidator(_checked)]
"""A comparison of arithmetic over dotted paths, checked when it is read."""


def holds(constraint: str, scenario: Mapping[str, Any]) -> bool:
    """Return whether a scenario, as plain data with `gpus` beside its keys, meets a constraint.

    Raises UnknownPathError with the nearest path, ValueError where the arithmetic has no result.
    """
    tree = _parse(constraint)
    numbers = [_value(operand, scenario) for operand in (tree.left, *tree.comparators)]
    pairs = zip(tree.ops, numbers, numbers[1:], strict=False)
    return all(_COMPARISONS[type(sign)](left, right) for sign, left, right in pairs)


@lru_cache
def _parse(text: str) -> ast.Compare:
    """Return the tree of a constraint. Raises ValueError if it is anything but a comparison."""
    try:
        with warnings.catch_warnings(action="ignore"):  # of the tokeniser, about odd literals
            tree = ast.parse(" ".join(text.split()), mode="eval").body
        if not isinstance(tree, ast.Compare):
            raise ValueError(f"{text!r} compares nothing; write a comparison, {_EXAMPLE}")
        for sign in tree.ops:
            if type(sign) not in _COMPARISONS:
                raise ValueError(f"{text!r}: compare with < <= > >= == or !=")
        for operand in (tree.left, *tree.comparators):
            _check(operand, text)
    except (SyntaxError, RecursionError, MemoryError) as error:
        reason = error.msg if isinstance(error, SyntaxError) else "nested too deep"
        raise ValueError(f"{text!r} cannot be read ({reason}); write {_EXAMPLE}") from None
    return tree


def _check(node: ast.expr, text: str) -> None:
    if isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC:
        _check(node.left, text)
        _check(node.right, text)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        _check(node.operand, text)
    elif not (_is_number(node) or _path(node)):
        raise ValueError(
            f"{text!r}: {ast.unparse(node)} is no number, path, + - * / // or %; write {_EXAMPLE}"
        )


def _is_number(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and type(node.value) in (int, float)


def _path(node: ast.expr) -> str:
    """Return the dotted path that a node is, empty if it is none."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (front := _path(node.value)):
        return f"{front}.{node.attr}"
    return ""


def _value(node: ast.expr, scenario: Mapping[str, Any]) -> Number:
    if isinstance(node, ast.BinOp):
        left, right = _value(node.left, scenario), _value(node.right, scenario)
        try:
            return _ARITHMETIC[type(node.op)](left, right)
        except ArithmeticError as error:
            raise ValueError(f"{ast.unparse(node)}: {error}") from None
    if isinstance(node, ast.UnaryOp):
        return -_value(node.operand, scenario)
    if isinstance(node, ast.Constant):
        assert isinstance(node.value, int | float)
        return node.value
    return _look_up(_path(node), scenario)


def _look_up(path: str, scenario: Mapping[str, Any]) -> Number:
    value: Any = scenario
    for part in path.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        known = dict(_numbers(scenario, ""))
        raise UnknownPathError(f"{path} is no number of this scenario; {did_you_mean(path, known)}")
    return value


def _numbers(data: Mapping[str, Any], front: str) -> Iterator[tuple[str, Number]]:
    """Yield dotted path and value of every number."""
    for key, value in data.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{front}{key}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield f"{front}{key}", value
