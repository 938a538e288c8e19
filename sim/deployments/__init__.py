"""Deployments: each compiles a scenario to a Program and times its stages."""

from __future__ import annotations

from sim.deployments.afd import AfdDeployment
from sim.deployments.ep import EpDeployment
from sim.deployments.site import Site
from sim.scenario import Scenario
from sim.shapes import Afd


def compile_deployment(scenario: Scenario) -> Site:
    """Return the compiled deployment of a scenario.

    Raises InfeasibleError, with the numbers, if its weights or its mean KV do not fit, its experts
    do not divide, or its GPUs lack a link that it needs.
    """
    afd = isinstance(scenario.deployment, Afd)
    site: Site = AfdDeployment(scenario) if afd else EpDeployment(scenario)
    site.check_memory()
    return site
