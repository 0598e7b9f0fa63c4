"""The room's public names are loaded when they are used, and nothing heavy before."""

import subprocess
import sys

import pytest

import dynamicpo.scoring
from dynamicpo.core.records.rows import Row
from dynamicpo.scoring.shared_prefix import answer_logps


def test_public_names():
    assert dynamicpo.scoring.Row is Row
    assert dynamicpo.scoring.answer_logps is answer_logps
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        dynamicpo.scoring.nothing  # noqa: B018


def test_importing_the_room_loads_neither_torch_nor_transformers():
    code = (
        "import dynamicpo.scoring, sys; print({'torch', 'transformers', 'peft'} & {*sys.modules})"
    )
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert output.strip() == "set()"
