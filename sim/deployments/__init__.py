"""Deployments: each compiles a scenario to a Program and times its stages."""
