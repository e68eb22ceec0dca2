"""What the tests of launch scripts share."""

from pathlib import Path

import pytest
from fake_tools import Elsewhere


@pytest.fixture
def elsewhere(tmp_path: Path) -> Elsewhere:
    """A checkout whose launch scripts find fake tools."""
    return Elsewhere(tmp_path)
