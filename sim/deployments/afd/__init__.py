"""AFD: a ring of attention and FFN GPUs, the times of its stages and of its links."""

from sim.deployments.afd.deployment import AfdDeployment

__all__ = ["AfdDeployment"]
