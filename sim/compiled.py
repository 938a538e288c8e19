"""Compiled loops: Numba where it is worth it, cached on disk where that is possible.

Importing this module imports Numba (most of a second), so only an engine that runs imports it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

Function = TypeVar("Function", bound=Callable[..., object])


def compiled(signature: str) -> Callable[[Function], Function]:
    """Compile a function for `signature` alone, from the cache if it was compiled before.

    Numba keeps its cache beside the module or, where that is read-only, in the user's cache
    directory. Where neither can be written (or the disk is full) the function is compiled afresh.
    """

    def decorate(function: Function) -> Function:
        try:
            made: Any = numba.njit(signature, cache=True, error_model="numpy")(function)
        except (OSError, RuntimeError):
            made = numba.njit(signature, error_model="numpy")(function)
        return cast(Function, made)

    return decorate
