"""Software: what a serving engine adds to kernels, as figures with a source and in profiles."""

from sim.inputs.software.figures import Communication, Compute, Pair, Software

__all__ = ["Communication", "Compute", "Pair", "Software"]
