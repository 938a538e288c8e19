"""Doubt: what is not known of a deployment, and what that makes of its figures."""
