"""Metrics and their intervals, on NumPy and SciPy alone.

The public name is loaded when it is first used, so that importing the room is cheap.
"""

from importlib import import_module
from typing import TYPE_CHECKING

__all__ = ["ranking_metrics"]

if TYPE_CHECKING:
    from dynamicpo.metrics.ranking import ranking_metrics
else:

    def __getattr__(name: str) -> object:
        """A public name, from its module (PEP 562)."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.ranking"), name)
