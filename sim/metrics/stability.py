"""Stability: whether a deployment keeps up with the requests of an open loop.

Under more load than it can serve, the line of waiting requests grows for as long as requests come:
every wait, and every share of requests in time, then tells how long the run was and nothing else.
Two signs tell such a load, and either is enough:

- The requests bring more output tokens a second than the deployment emits when its memory is full.
  That is known before the run, and needs none: a short one may end before the memory is full.
- Requests came faster than others were admitted while some had to wait, by more than chance makes
  likely. A burst that is worked off again is none, since it counts with the calm around it.
"""

from __future__ import annotations

from math import sqrt

import numpy as np

from sim.decoding.run import Run
from sim.deployments import compile_deployment
from sim.deployments.deployment import Deployment
from sim.foundation.units import NS_PER_S
from sim.inputs.arrivals import Bursts, Gamma, Poisson
from sim.inputs.scenario import Scenario
from sim.steady.largest_load import most_fitting
from sim.steady.state import under_load

# 99 % of a normal law lies below this many deviations: one false alarm in a hundred runs at the
# very limit of what can be served, far fewer below it.
_SURELY = 2.326


def is_stable(run: Run) -> bool | None:
    """Return whether the deployment keeps up with its requests; None for a closed loop."""
    if run.is_closed():
        return None
    return offered_load(run.scenario) <= 1 and not _falls_behind(run)


def offered_load(scenario: Scenario) -> float:
    """Return the output tokens that arrive in an open loop over those that the deployment can emit.

    What can be emitted is the steady state of the largest load that fits in memory, which no run
    exceeds: more than 1 is too much for certain. Raises InfeasibleError if the shape cannot run.
    """
    site = compile_deployment(scenario)
    workload = scenario.workload
    assert workload.arrivals.kind != "closed"
    brought_per_s = workload.arrivals.requests_per_s * site.expected.output_tokens()
    return brought_per_s / _most_tokens_per_s(site)


def _most_tokens_per_s(site: Deployment) -> float:
    """Return output tokens per second of a deployment whose memory is full."""
    # Of requests of many sizes a GPU may hold one more than of mean ones.
    each = max(most_fitting(site) + (not site.expected.are_alike()), 1)
    each = min(each, site.scenario.memory.max_running_requests or each)
    full = under_load(site, each * site.attention_gpus)
    return full.requests / (full.tpot_ns / NS_PER_S)


def _falls_behind(run: Run) -> bool:
    """Return whether requests came faster than others were admitted while some had to wait.

    A request has to wait from the boundary at which the last of all micro-batches has passed it
    over. Both rates are counts of a Poisson law at least; what is admitted is looked at only if
    requests had to wait for as long as one of them is served, since before that hardly any left.
    """
    requests, m = run.requests, run.program.micro_batches
    last_ns = int(requests["arrival_ns"].max())
    span_ns = last_ns - int(requests["arrival_ns"].min())
    boundaries_ns = np.sort(run.steps["start_ns"])
    passed = np.searchsorted(boundaries_ns, requests["arrival_ns"]) + m - 1
    seen = boundaries_ns[np.minimum(passed, len(boundaries_ns) - 1)]
    waits = (seen < requests["admitted_ns"]) & (seen < last_ns)
    begun_ns, ended_ns = seen[waits], np.minimum(requests["admitted_ns"][waits], last_ns)
    order = np.argsort(begun_ns, kind="stable")
    begun_ns, ended_ns = begun_ns[order], np.maximum.accumulate(ended_ns[order])
    if not len(begun_ns):
        return False
    # Waits that overlap are one: it begins where none of those before is still going on.
    first = np.append(True, begun_ns[1:] > ended_ns[:-1])
    starts_ns, ends_ns = begun_ns[first], ended_ns[np.append(first[1:], True)]
    waited_ns = int((ends_ns - starts_ns).sum())
    served_ns = (requests["last_token_ns"] - requests["admitted_ns"]).mean()
    if waited_ns < served_ns:
        return False
    at_ns = np.sort(requests["admitted_ns"])
    counts = np.searchsorted(at_ns, ends_ns, "right") - np.searchsorted(at_ns, starts_ns, "right")
    admitted, arrived = int(counts.sum()), len(requests["arrival_ns"])
    # As many as come in this time at the rate of the whole run; a run that is mostly a burst by
    # chance says nothing of the law.
    came = arrived * waited_ns / span_ns
    arrivals = run.scenario.workload.arrivals
    if isinstance(arrivals, Poisson | Gamma | Bursts):
        came = min(came, arrivals.requests_per_s * waited_ns / NS_PER_S)
    return came - admitted > _SURELY * sqrt(admitted + came**2 / arrived)
