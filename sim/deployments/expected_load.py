"""Expected load: what a deployment will hold, before anything is simulated."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import NamedTuple

import numpy as np

from sim.deployments.batch import Batch
from sim.deployments.kvcache import KvLayout
from sim.foundation.identity import kept_by_identity
from sim.foundation.nanoseconds import Ns
from sim.inputs.arrivals import ClosedLoop
from sim.inputs.lengths import DrawnLengths, Tokens, stationary_sample
from sim.inputs.scenario import Scenario
from sim.kernels import ops

# Enough requests that their mean context is within 1 % of the slot load for any length law.
_SAMPLE = 4096


@dataclass(frozen=True)
class ExpectedLoad:
    """The mean load of a scenario on the attention GPUs of its deployment."""

    scenario: Scenario
    layout: KvLayout
    gpus: int
    """GPUs that hold KV."""
    micro_batches: int

    def in_flight(self) -> int | None:
        """Return the concurrency of a closed loop; None for an open one."""
        arrivals = self.scenario.workload.arrivals
        if not isinstance(arrivals, ClosedLoop):
            return None
        return arrivals.requests_in_flight(self.scenario.gpu_count())

    def requests(self) -> float:
        """Return the requests in flight to expect.

        In an open loop they follow from Little's law at the latency target: the load that the
        deployment should carry, as far as its engine runs so many at once.
        """
        in_flight = self.in_flight()
        if in_flight is not None:
            return in_flight
        workload = self.scenario.workload
        assert not isinstance(workload.arrivals, ClosedLoop)
        per_request_ms = workload.law.mean_output_tokens() * self.scenario.slo.tpot_ms
        requests = workload.arrivals.requests_per_s * per_request_ms / 1e3
        running = self.scenario.memory.max_running_requests
        return requests if running is None else min(requests, running * self.gpus)

    def batch(self) -> Batch:
        """Return the micro-batch to expect: an even share of the mean load."""
        each = max(1, round(self.requests() / (self.gpus * self.micro_batches)))
        return self.batch_of(each * self.gpus)

    def batch_of(self, requests: int) -> Batch:
        """Return a micro-batch of `requests` requests of mean context."""
        windows = self.layout.bytes_per_token
        batch = Batch.spread(self.gpus, requests, self._means.context, windows)
        return self._taken(batch, np.array(self.gpus), np.array(requests))

    def representative(self, gpus: Ns, requests: Ns, block: int) -> Batch:
        """Return micro-batches of as many requests on as many GPUs; some GPUs stand for all.

        Blocks of `block` neighbours work together.
        """
        windows = self.layout.bytes_per_token
        batch = Batch.representative(gpus, block, requests, self._means.context, windows)
        return self._taken(batch, gpus, requests)

    def _taken(self, batch: Batch, gpus: Ns, requests: Ns) -> Batch:
        """Return the batch with the share of GPUs that take a step."""
        if self.scenario.admission.idle_step_share is None:
            return batch
        return replace(batch, taking=1 / (1 + self.sat_out(gpus, requests)[..., np.newaxis]))

    def sat_out(self, gpus: Ns, requests: Ns) -> ops.Floats:
        """Return the steps that a GPU sits out for each that it takes, by load.

        `requests` are those of a micro-batch on `gpus` attention GPUs. They end independently of
        each other, each as likely in one step as in another, and what takes their place costs
        their GPU the next step, however many they are. A GPU alone holds no other up.
        """
        share = self.scenario.admission.idle_step_share
        if share is None:
            return np.zeros(gpus.shape)
        steps = max(self.output_tokens() / self.scenario.tokens_per_step(), 1.0)
        seldom = (1 - float(share) / steps) ** (requests / gpus)
        return np.where(gpus > 1, 1 - seldom, 0.0)

    @property
    def held_bytes(self) -> float:
        """Mean KV of a request in flight, bytes."""
        return self._means.held_bytes

    @property
    def reserved_bytes(self) -> float:
        """Mean KV of a request with its whole output, bytes."""
        return self._means.reserved_bytes

    def claimed_bytes(self) -> float:
        """Return the mean KV that a request in flight claims under the admission policy, bytes."""
        reserves = self.scenario.admission.kv.kind == "reserve"
        return self.reserved_bytes if reserves else self.held_bytes

    def output_tokens(self) -> float:
        """Return the mean output tokens of a request that arrives."""
        _prompt, output, _age = self._sample()
        # Requests are found in flight in proportion to their output, which this undoes.
        return 1 / float((1 / output).mean())

    def are_alike(self) -> bool:
        """Return whether all requests have the same lengths."""
        prompt, output, _age = self._sample()
        return bool((prompt == prompt[0]).all() and (output == output[0]).all())

    @cached_property
    def _means(self) -> _Means:
        law, seed = self.scenario.workload.law, self.scenario.simulation.seed
        if isinstance(law, DrawnLengths):
            return _drawn_means(law, seed, self.layout)
        return _Means.of(self._sample(), self.layout)

    def _sample(self) -> tuple[Tokens, Tokens, Tokens]:
        """Return prompt, output and age of requests as they are found in flight."""
        law, seed = self.scenario.workload.law, self.scenario.simulation.seed
        if isinstance(law, DrawnLengths):
            return _drawn_sample(law, seed)
        return stationary_sample(law, seed, _SAMPLE)


class _Means(NamedTuple):
    """What a request in flight has in the mean."""

    context: float
    """Context tokens."""
    held_bytes: float
    reserved_bytes: float

    @classmethod
    def of(cls, sample: tuple[Tokens, Tokens, Tokens], layout: KvLayout) -> _Means:
        prompt, output, age = sample
        held, whole = layout.request_bytes(prompt + age), layout.whole_bytes(prompt, output)
        return cls(float((prompt + age).mean()), float(held.mean()), float(whole.mean()))


@kept_by_identity
def _drawn_means(lengths: DrawnLengths, seed: int, layout: KvLayout) -> _Means:
    """Return the means of a law of lengths, which all shapes of a sweep share."""
    return _Means.of(_drawn_sample(lengths, seed), layout)


@lru_cache(maxsize=8)
def _drawn_sample(lengths: DrawnLengths, seed: int) -> tuple[Tokens, Tokens, Tokens]:
    """Return the sample of a law of lengths, which all shapes of a sweep share."""
    return stationary_sample(lengths, seed, _SAMPLE)
