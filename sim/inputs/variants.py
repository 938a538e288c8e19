"""Variants: scenarios that differ from one document in a few values, as the points of a grid do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from sim.inputs.documents.document import Document
from sim.inputs.scenario import Scenario, from_document

_WITH_PROFILE = {"software", "memory"}
"""What is read of a software profile together."""


class Variants:
    """Scenarios made from one document. What they share is validated once, and is one object."""

    def __init__(self, base: Document) -> None:
        self._base = base
        self._known: dict[str, Any] = {}
        self._written: dict[str, Any] = {}
        """What a software profile made of its part of the document."""

    def document(
        self, settings: Mapping[str, Any], origin: str, overrides: Iterable[str] = ()
    ) -> Document:
        """Return the document with other values, as `Document.changed` does."""
        return self._base.changed(settings, origin, overrides)

    def with_settings(self, settings: Mapping[str, Any]) -> Scenario:
        """Return the scenario with values by dotted path. Raises as `Scenario.with_settings`."""
        return self.scenario(self.document(settings, self._base.name))

    def scenario(self, document: Document) -> Scenario:
        """Return the scenario of such a document. Raises ScenarioError with every mistake."""
        shared = {name for name, part in self._base.data.items() if document.data.get(name) is part}
        if not shared >= _WITH_PROFILE:
            shared -= _WITH_PROFILE
        known = {name: part for name, part in self._known.items() if name in shared}
        if shared >= _WITH_PROFILE:
            document.data = document.data | self._written
        scenario = from_document(document, known=known)
        self._known |= {name: getattr(scenario, name) for name in shared}
        if shared >= _WITH_PROFILE:
            self._written = {name: document.data[name] for name in _WITH_PROFILE}
        return scenario
