"""Numbers that memory is reserved by have an upper limit: a typing error must not take it all."""

import pytest

from dynamicpo.core.config import DriftConfig, EvaluationConfig
from dynamicpo.core.config_fields import LARGEST_EXACT, Checked
from dynamicpo.core.config_gate import GateConfig
from dynamicpo.core.errors import ConfigError


@pytest.mark.parametrize(
    ("kind", "name", "largest"),
    [
        (DriftConfig, "permutations", 10_000),
        (EvaluationConfig, "resamples", 100_000),
        (GateConfig, "resamples", 100_000),
    ],
)
def test_more_than_memory_is_refused(kind: type[Checked], name: str, largest: int) -> None:
    kind(**{name: largest})
    for number in (largest + 1, LARGEST_EXACT):
        with pytest.raises(ConfigError, match=f"^{name}: must be <= .*, got"):
            kind(**{name: number})
