"""A compiled pipeline: programs without docstrings, descriptions of its own parameters only."""

from pathlib import Path

import pytest
import yaml
from kfp import dsl

from dynamicpo.runs.compile import compile_pipeline
from dynamicpo.runs.shipped_texts import strip_texts, without_docstrings

IMAGE = "registry.invalid/dynamicpo@sha256:" + 64 * "a"


def test_a_program_does_the_same_without_its_docstrings():
    source = (
        '\nimport math\n\ndef area(radius: float = 2.0) -> float:\n    """The area.\n\n'
        '    Args:\n        radius: Of a circle.\n    """\n    # the formula\n'
        '    text = """not a docstring"""\n    return math.pi * radius**2, text\n'
    )
    stripped = without_docstrings(source)
    assert "The area" not in stripped and "formula" not in stripped
    before: dict[str, object] = {}
    after: dict[str, object] = {}
    exec(source, before)
    exec(stripped, after)
    assert after["area"](3) == before["area"](3)  # type: ignore[operator]
    assert without_docstrings(stripped) == stripped


def test_a_function_or_class_that_is_nothing_but_its_docstring_stays_one():
    stripped = without_docstrings('def f():\n    """Nothing."""\n\nclass A:\n    """Nothing."""\n')
    names: dict[str, object] = {}
    exec(stripped, names)
    assert names["f"]() is None and "Nothing" not in stripped  # type: ignore[operator]


@dsl.component(base_image="python:local", install_kfp_package=False)
def double(x: int, report: dsl.Output[dsl.Markdown]) -> int:
    """Double a number.

    Args:
        x: A number to double.
        report: A page on it.

    Returns:
        Twice the number.
    """
    return 2 * x


@dsl.pipeline(name="doubling", description="Doubles.")
def doubling(number: int = 1):
    """Double a number twice.

    Args:
        number: The number of the run form.
    """
    double(x=double(x=number).outputs["Output"])


def test_only_the_pipelines_own_parameters_keep_their_descriptions():
    strip_texts(doubling)
    text = str(doubling.pipeline_spec)
    assert "The number of the run form" in text and "Doubles." in text
    assert "2 * x" in text
    for gone in ("Double a number.", "A number to double", "A page on it", "Twice"):
        assert gone not in text


@pytest.mark.parametrize("name", ["training", "negative_scaling"])
def test_compiled_pipelines_carry_none(tmp_path: Path, name: str):
    compile_pipeline(name, tmp_path / "pipeline.yaml", IMAGE)
    spec = next(yaml.safe_load_all((tmp_path / "pipeline.yaml").read_text()))
    assert '"""' not in str(spec["deploymentSpec"]) and "description" not in str(spec["components"])
