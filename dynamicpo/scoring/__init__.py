"""Log-probabilities of answers by language models, each prompt run through the model once.

The public names are loaded when they are first used, as scoring needs transformers and peft.
"""

from importlib import import_module
from typing import TYPE_CHECKING

__all__ = ["Row", "answer_logps"]

if TYPE_CHECKING:
    from dynamicpo.core.records.rows import Row
    from dynamicpo.scoring.shared_prefix import answer_logps
else:
    _MODULES = {
        "Row": "dynamicpo.core.records.rows",
        "answer_logps": "dynamicpo.scoring.shared_prefix",
    }

    def __getattr__(name: str) -> object:
        """A public name, from its module (PEP 562)."""
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(_MODULES[name]), name)
