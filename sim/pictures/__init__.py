"""Figures and pages, drawn from plain tables."""
