"""Both back-ends, on the device."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from engines.cuda.transfers import Transfers
from tests.engines.cuda import conformance


@pytest.mark.gpu
@pytest.mark.parametrize("check", conformance.CHECKS, ids=lambda check: check.__name__)
def test_back_end_keeps_the_contract(check: Callable[[Transfers], None], transfers: Transfers) -> None:
    check(transfers)
