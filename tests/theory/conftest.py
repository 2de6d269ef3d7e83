"""Fixtures of the tests of the analytic side."""

from __future__ import annotations

from collections.abc import Iterator

import jax
import pytest


@pytest.fixture
def float64() -> Iterator[None]:
    """64-bit jax for the duration of one test."""
    with jax.enable_x64(True):
        yield
