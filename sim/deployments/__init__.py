"""Deployments: each compiles a scenario to a Program and times its stages."""

from __future__ import annotations

from collections.abc import Callable

from sim.deployments.afd import AfdDeployment
from sim.deployments.deployment import Deployment
from sim.deployments.ep import EpDeployment
from sim.inputs.scenario import Scenario

DEPLOYMENTS: dict[str, Callable[[Scenario], Deployment]] = {
    "afd": AfdDeployment,
    "ep": EpDeployment,
}
"""What compiles each kind of deployment."""


def compile_deployment(scenario: Scenario) -> Deployment:
    """Return the compiled deployment of a scenario.

    Raises InfeasibleError, with the numbers, if its weights or its mean KV do not fit, its experts
    do not divide, or its GPUs lack a link that it needs.
    """
    deployment = DEPLOYMENTS[scenario.deployment.kind](scenario)
    deployment.check_memory()
    deployment.check_routing()
    return deployment
