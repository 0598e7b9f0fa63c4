"""Windows between given dates, half-open: what is at a date belongs to the window after it."""

import ibis
import ibis.expr.types as ir

from dynamicpo.core.config import DataConfig
from dynamicpo.core.config_inputs import epoch_seconds

BEFORE = "before"
AFTER = "after"
# In the order of time: the window that ends at each date.
_ENDS = {
    "data_from": BEFORE,
    "train_until": "train",
    "validation_until": "validation",
    "data_until": "test",
}


def window_of(timestamp: ir.FloatingValue, config: DataConfig) -> ir.StringValue:
    """The window of a time: a split, "before" the first or "after" the last."""
    cuts = {name: epoch_seconds(name, getattr(config, name)) for name in _ENDS}
    cases = []
    for name, window in _ENDS.items():
        end = cuts[name]
        if end is not None:
            is_before = timestamp < end
            cases.append((is_before, window))
    open_end = "test" if cuts["data_until"] is None else AFTER
    return ibis.cases(*cases, else_=open_end)
