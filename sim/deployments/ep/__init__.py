"""EP: colocated expert parallelism, the times of its stages and their order."""

from sim.deployments.ep.deployment import EpDeployment

__all__ = ["EpDeployment"]
