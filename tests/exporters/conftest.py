"""What tests of exporters need beyond the base."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

from tests.conftest import missing


@pytest.fixture(scope="module")
def safetensors(request: pytest.FixtureRequest) -> None:
    """Skip where checkpoints cannot be read."""
    if find_spec("safetensors") is None:
        missing(request, "torch", "checkpoints need safetensors: pip install 'qharness[torch]'")
