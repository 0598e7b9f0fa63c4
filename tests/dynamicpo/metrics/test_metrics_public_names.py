"""The public name of the room loads NumPy when it is used; torch is never loaded."""

import subprocess
import sys

import pytest

from dynamicpo import metrics
from dynamicpo.metrics import ranking


def test_the_public_name_is_that_of_its_module() -> None:
    from dynamicpo.metrics import ranking_metrics

    assert ranking_metrics is ranking.ranking_metrics


def test_other_names_are_refused() -> None:
    with pytest.raises(AttributeError, match="'dynamicpo.metrics' has no attribute 'rankings'"):
        metrics.rankings  # noqa: B018


@pytest.mark.parametrize("source", ["import dynamicpo.metrics", "from dynamicpo.metrics import *"])
def test_torch_is_not_loaded(source: str) -> None:
    modules = "beyond_accuracy, generated_answers, intervals, ranking"
    checks = "import sys; assert 'torch' not in sys.modules"
    lines = [source, f"from dynamicpo.metrics import {modules}", checks]
    subprocess.run([sys.executable, "-c", "\n".join(lines)], check=True)


def test_importing_the_room_does_not_load_numpy() -> None:
    source = "import sys, dynamicpo.metrics; assert 'numpy' not in sys.modules"
    subprocess.run([sys.executable, "-c", source], check=True)
