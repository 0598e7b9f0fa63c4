"""The public names of the room load torch when they are used, not when the room is imported."""

import subprocess
import sys

import pytest

from dynamicpo import objective
from dynamicpo.objective import boundary, dynamicpo


def test_public_names_are_those_of_the_modules() -> None:
    from dynamicpo.objective import boundary_negatives, preference_losses

    assert boundary_negatives is boundary.boundary_negatives
    assert preference_losses is dynamicpo.preference_losses
    assert dynamicpo.__name__ == "dynamicpo.objective.dynamicpo"


def test_other_names_are_refused() -> None:
    with pytest.raises(AttributeError, match="'dynamicpo.objective' has no attribute 'losess'"):
        objective.losess  # noqa: B018


def test_importing_the_room_does_not_load_torch() -> None:
    source = "import sys, dynamicpo.objective; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", source], check=True)
