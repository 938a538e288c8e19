"""Fixtures that several folders share."""

from __future__ import annotations

import os
from pathlib import Path

import hypothesis
import pytest

# As the command line does, and before NumPy is imported.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from tests import tiny

# Tests never time anything.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the path of the tiny model card."""
    return tiny.write_model(tmp_path_factory.mktemp("cards"))


@pytest.fixture(scope="session")
def loaded_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the path of the model card with heavy attention."""
    return tiny.write_loaded_model(tmp_path_factory.mktemp("cards"))


@pytest.fixture(scope="session")
def dense_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the path of the model card with heavy attention and a dense FFN."""
    return tiny.write_dense_model(tmp_path_factory.mktemp("cards"))
