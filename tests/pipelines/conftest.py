"""A pipeline of the training pipeline's shape, placed on a cluster and compiled."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from kfp import compiler, dsl

from dynamicpo_pipelines.placement import Placement, never_cached, on_cpu, on_gpu, placed

Compile = Callable[..., tuple[dict[str, Any], dict[str, Any]]]


@dsl.component(base_image="python:local", install_kfp_package=False)
def prepare(x: int = 0) -> int:
    return x


@dsl.component(base_image="python:local", install_kfp_package=False)
def train(x: int = 0) -> int:
    return x


@dsl.component(base_image="python:local", install_kfp_package=False)
def report(results: list):
    print(results)  # noqa: T201


@dsl.pipeline(name="sample")
def sample(rows: list = [1, 2]):  # noqa: B006
    first = on_cpu(prepare(x=1)).output
    with dsl.ParallelFor(rows, name="each row") as row:
        trained = on_gpu(train(x=row)).after(on_gpu(train(x=first)))
    never_cached(on_cpu(report(results=dsl.Collected(trained.output))))


@pytest.fixture
def compile_placed(tmp_path: Path) -> Compile:
    """Compile the sample with some placement; gives the pipeline and its Kubernetes part."""

    def run(**fields: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        path = tmp_path / "sample.yaml"
        compiler.Compiler().compile(placed(sample, Placement(**fields)), str(path))
        spec, platform = yaml.safe_load_all(path.read_text(encoding="utf-8"))
        return spec, platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]

    return run
