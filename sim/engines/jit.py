"""Compiled loops: Numba where it is worth it, cached on disk where that is possible.

A loop is compiled when it is first called, by Python or by another loop: a command pays for the
loops that it runs. Numba takes most of a second to import and waits as long.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, update_wrapper
from typing import Any, TypeVar, cast

Function = TypeVar("Function", bound=Callable[..., object])

# No loop is called from C, which spares each of them an entry point.
_OPTIONS = {"error_model": "numpy", "no_cfunc_wrapper": True}


def compiled(signature: str, inline: bool = False) -> Callable[[Function], Function]:
    """Make a loop of a function, to be compiled for `signature` alone.

    An `inline` one becomes part of the loops that call it: to pass it some arrays may take longer
    than what it does.
    """

    def made(function: Function) -> Function:
        return cast(Function, Loop(function, signature, inline))

    return made


class Loop:
    """A function that is compiled on its first call, or read from the cache."""

    def __init__(self, function: Callable[..., object], signature: str, inline: bool) -> None:
        update_wrapper(self, function)
        self._function = function
        self._signature = signature
        self._options = _OPTIONS | {"forceinline": inline}

    def __call__(self, *arguments: Any) -> Any:
        return self.dispatcher(*arguments)

    @cached_property
    def dispatcher(self) -> Any:
        """Numba's function.

        Numba keeps its cache beside the module or, where that is read-only, in the user's cache
        directory. Where neither can be written (or the disk is full) it compiles afresh.
        """
        import numba

        _listen()
        njit: Any = numba.njit
        try:
            return njit(self._signature, cache=True, **self._options)(self._function)
        except (OSError, RuntimeError):
            return njit(self._signature, **self._options)(self._function)

    @property
    def _numba_type_(self) -> Any:
        """What Numba takes this for inside another loop."""
        from numba.core.types import Dispatcher

        return Dispatcher(self.dispatcher)


_tell: Callable[[], None] | None = None


def on_compiling(tell: Callable[[], None]) -> None:
    """Call `tell` before the first loop that no cache holds is compiled."""
    global _tell
    _tell = tell


def _listen() -> None:
    """Let Numba, which knows what its cache holds, call what `on_compiling` was given."""
    global _tell
    if _tell is None:
        return
    from numba.core import event

    left = [_tell]

    class Once(event.Listener):
        def on_start(self, _event: event.Event) -> None:
            while left:
                left.pop()()

        def on_end(self, _event: event.Event) -> None:
            pass

    register: Any = event.register
    register("numba:compile", Once())
    _tell = None
