"""The host: how long GPUs wait between two steps while it schedules and samples."""

from __future__ import annotations

from sim.inputs import cards
from sim.inputs.scenario import Scenario


def host_us(scenario: Scenario) -> float:
    """Return the time from the last kernel of a step to the first of the next, µs.

    Every attention GPU, or group that shares requests, is a data-parallel rank with a process.
    Ranks that agree before each step wait for the slowest, by a law of their number: a time for
    each further one, and one more where they lie on several servers.
    """
    software, attention = scenario.software, scenario.deployment.attention_gpus()
    ranks = attention.ranks
    further_us = (ranks - 1) * (software.host_us_per_further_rank or 0.0)
    across_us = software.host_us_across_servers or 0.0
    if across_us and attention.gpus <= cards.accelerator(attention.accelerator).node.gpus:
        across_us = 0.0
    return software.host_gap_us_per_step + further_us + across_us


def mean_host_us(scenario: Scenario) -> float:
    """Return the same with the mean of the host's noise, µs."""
    tail = scenario.noise.host if scenario.noise is not None else None
    return host_us(scenario) + (tail.mean_us if tail is not None else 0.0)
