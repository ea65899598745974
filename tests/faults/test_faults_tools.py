"""The short form of F14; `make faults` runs the full one."""

from __future__ import annotations

import pytest

from tests.faults.figures import Scale
from tests.faults.group_tools import tools_in_the_middle

pytestmark = pytest.mark.xdist_group("faults")


async def test_no_tool_is_called_twice_whatever_breaks(short: Scale) -> None:
    """With tools running and approvals pending in the middle of a death, a drain, a rolling restart and lost
    engines."""
    figures = await tools_in_the_middle(None, short)
    print(figures)
    assert figures.passed, figures
