"""Deployments: each compiles a scenario to a Program and times its stages."""

from __future__ import annotations

from sim.deployments.afd import AfdDeployment
from sim.deployments.deployment import Deployment
from sim.deployments.ep import EpDeployment
from sim.inputs.deployment import Afd
from sim.inputs.scenario import Scenario


def compile_deployment(scenario: Scenario) -> Deployment:
    """Return the compiled deployment of a scenario.

    Raises InfeasibleError, with the numbers, if its weights or its mean KV do not fit, its experts
    do not divide, or its GPUs lack a link that it needs.
    """
    afd = isinstance(scenario.deployment, Afd)
    site: Deployment = AfdDeployment(scenario) if afd else EpDeployment(scenario)
    site.check_memory()
    return site
