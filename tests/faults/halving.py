"""A call for workers, in a module that they import at once."""

from __future__ import annotations

import os
import signal


def halve(number: int) -> int:
    """Halve a number, but die of 13 and fail with odd ones."""
    if number == 13:
        os.kill(os.getpid(), signal.SIGKILL)
    if number % 2:
        raise ValueError(f"{number} is odd")
    return number // 2
