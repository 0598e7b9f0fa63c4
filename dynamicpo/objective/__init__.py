"""The mathematics of DynamicPO, on tensors alone.

The public names are loaded when they are first used, so that importing the room is cheap.
"""

from importlib import import_module
from typing import TYPE_CHECKING

__all__ = ["boundary_negatives", "preference_losses"]

if TYPE_CHECKING:
    from dynamicpo.objective.boundary import boundary_negatives
    from dynamicpo.objective.dynamicpo import preference_losses
else:
    _MODULES = {"boundary_negatives": "boundary", "preference_losses": "dynamicpo"}

    def __getattr__(name: str) -> object:
        """A public name, from its module (PEP 562)."""
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
