"""The commands that read damaged inputs: their arguments, and the inputs of each."""

from typing import NamedTuple

_IMAGE = f"registry.example/dynamicpo@sha256:{'0' * 64}"
_ONE_STEP = "--preferences preferences --max-steps 1 --epochs 1"


class Target(NamedTuple):
    """A command.

    Attributes:
        command: Its arguments; paths are relative to the folder of the case.
        inputs: The files and folders that it reads.
        output: The folder that it makes; empty where it makes none.
    """

    command: str
    inputs: tuple[str, ...]
    output: str = "out"

    @property
    def argv(self) -> list[str]:
        """All arguments."""
        words = self.command.split()
        return [*words, "--output", self.output] if self.output else words


def _stage(command: str, *inputs: str) -> Target:
    """A stage, which reads its settings from a file as well."""
    name = command.partition(" ")[0]
    settings = f"settings/{name}.yaml"
    return Target(f"{command} --config {settings}", (*inputs, settings))


def _tables(folder: str, name: str = "") -> Target:
    command = f"prepare-data --interactions {folder}/{name} --items tables/items.csv"
    return _stage(command, folder, "tables/items.csv")


def _evaluation(model: str, *inputs: str) -> Target:
    command = f"evaluate --preferences preferences --rows 10 --resamples 100 --model a={model}"
    return _stage(command, "preferences", model, *inputs)


TARGETS: dict[str, Target] = {
    "csv": _tables("tables", "interactions.csv"),
    "gzip": _tables("gzip"),
    "jsonl": _tables("jsonl"),
    "parquet": _tables("parquet"),
    "movielens": _stage(
        "prepare-data --source movielens --interactions movielens/ml-100k.zip", "movielens"
    ),
    "published": _stage("prepare-data --source published --interactions published", "published"),
    "negatives": _stage("sample-negatives --examples examples", "examples"),
    "audit": Target(
        "audit-candidates --train preferences --test later", ("preferences", "later"), ""
    ),
    "sft": _stage(f"sft {_ONE_STEP} --template template.yaml", "preferences", "template.yaml"),
    "sft-base": _stage(
        f"sft {_ONE_STEP} --item-text title --backbone ./base", "preferences", "base"
    ),
    "train": _stage(f"train-preferences {_ONE_STEP} --adapter sft", "preferences", "sft"),
    "train-lora": _stage(
        f"train-preferences {_ONE_STEP} --adapter lora", "preferences", "lora", "base"
    ),
    "evaluate": _evaluation("sft"),
    "evaluate-lora": _evaluation("lora", "base"),
    "evaluate-titles": _evaluation("titles"),
    "drift": _stage(
        "monitor-drift --reference preferences --current later --model sft",
        *("preferences", "later", "sft"),
    ),
    "compare": Target(
        "compare evaluation-sft evaluation-dmpo", ("evaluation-sft", "evaluation-dmpo")
    ),
    "compare-runs": Target("compare monday friday --folder runs", ("runs",)),
    "runs": Target("runs runs", ("runs",), ""),
    "study": _stage(
        "judge-collapse --baselines evaluation-sft --evaluation CELLS", "evaluation-sft", "cells"
    ),
    "compile": Target(
        f"compile training --image {_IMAGE} --placement settings/placement.yaml -o out.yaml",
        ("settings/placement.yaml",),
        "",
    ),
    "parameters": Target(
        f"submit training --image {_IMAGE} --no-image-check --host http://127.0.0.1:9 "
        "--config settings/parameters.yaml",
        ("settings/parameters.yaml",),
        "",
    ),
}


def target_of(number: int) -> str:
    """The name of a case's target: all come in turn."""
    return list(TARGETS)[number % len(TARGETS)]
