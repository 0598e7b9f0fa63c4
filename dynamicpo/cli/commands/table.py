"""What each command does: values from flags and files to a result, a mapping that JSON can hold.

Nothing heavy is imported before the values have been checked, so that mistakes are answered at once.
"""

import functools
from collections.abc import Callable
from typing import Any

from dynamicpo.cli.commands import pipelines
from dynamicpo.cli.commands.stages import SEVERAL, STAGES, Stage, audit, run_stage
from dynamicpo.cli.commands.values import Values

__all__ = ["COMMANDS", "SEVERAL", "STAGES", "Stage"]

COMMANDS: dict[str, Callable[[Values], dict[str, Any]]] = {
    **{name: functools.partial(run_stage, name) for name in STAGES},
    "audit-candidates": audit,
    "compare": pipelines.compare,
    "run": pipelines.run,
    "runs": pipelines.runs,
    "compile": pipelines.compile_pipeline,
    "submit": pipelines.submit,
}
