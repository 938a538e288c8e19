"""The command line: verbs, tables and exit codes. No model logic lives here.

stdout is data, stderr is talk. Heavy modules are imported inside the verb that needs them, so
that `--help` answers at once.
"""

from __future__ import annotations

import atexit
import gc
import os
import sys

from sim.cli import output
from sim.engines.jit import on_compiling
from sim.foundation.errors import EXIT_OK, SimError
from sim.parallel import signals


def main() -> None:
    """Run the command line and exit with the documented code (see `sim.foundation.errors`)."""
    # Modules live as long as the process. To look for garbage among them while they are imported,
    # and again at the exit, would take a third of a short command.
    gc.set_threshold(10_000, 20, 20)
    atexit.register(gc.freeze)
    # Matrices are small here. Threads of BLAS would spin while they wait for each other, several
    # times what they compute where CPUs are busy, and sums could depend on their number.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    with output.prepared():
        try:
            with signals.heard():
                code = output.delivered(_run)
        except signals.Stopped as stopped:
            output.say("interrupted")
            # Workers end with this process, whatever they are at: there is nothing to wait for.
            os._exit(stopped.exit_code)
    sys.exit(code)


def _run() -> int:
    # The verbs take a while to import, and a signal of that while counts as well.
    from sim.cli.verbs import app

    on_compiling(lambda: output.say("compiling loops, once for this installation: some 10 s …"))
    try:
        app()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else EXIT_OK
    except SimError as error:
        for line in str(error).split("\n"):
            output.say(f"error: {line}")
        return error.exit_code
    return EXIT_OK
