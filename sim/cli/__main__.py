"""`python -m sim.cli` is `afdsim`."""

from sim.cli import main

main()
