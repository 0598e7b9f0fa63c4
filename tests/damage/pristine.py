"""Inputs of all commands, small and whole, in one folder: cases copy them and damage the copies."""

import contextlib
import dataclasses
import json
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import yaml
from kfp import dsl

from dynamicpo.core.config import (
    DataConfig,
    DriftConfig,
    EvaluationConfig,
    GridConfig,
    NegativesConfig,
    PreferenceConfig,
    SFTConfig,
    StudyConfig,
)
from dynamicpo.core.config_fields import Checked
from dynamicpo.core.records.manifest import read_manifest, write_json
from dynamicpo.data.prepare import prepare_data
from dynamicpo.evaluation.evaluate import evaluate
from dynamicpo.runs.local import summary
from dynamicpo.runs.local.tasks import Task
from dynamicpo.runs.signatures import pipeline_parameters
from dynamicpo.study.grid import plan_cells
from dynamicpo.training.preference_training import train_preferences
from dynamicpo.training.sft import fine_tune
from dynamicpo_pipelines.placement import Placement
from tests.fixtures.folders import preference_rows, write_model, write_preferences
from tests.fixtures.models import write_tiny_llm
from tests.fixtures.tables import write_tables

_LOG = '{"step": 1, "loss": 2.0}\n{"step": 2, "loss": 1.0}\n'
_EVALUATION = EvaluationConfig(sasrec=False, resamples=100)
_SHORT = {"max_steps": 2, "batch_size": 8}
_SETTINGS: dict[str, Checked] = {
    "prepare-data": DataConfig(k_core=1),
    "sample-negatives": NegativesConfig(num_candidates=6),
    "sft": SFTConfig(max_length=256, lora_rank=4, batch_size=8),
    "train-preferences": PreferenceConfig(num_negatives=3, batch_size=8),
    "evaluate": _EVALUATION,
    "monitor-drift": DriftConfig(),
    "judge-collapse": StudyConfig(),
    "placement": Placement(),
}
_TEMPLATE = {
    "name": "test",
    "separator": "\n",
    "answer": "{title}",
    "prompts": ["Watched:\n{history}\nNext:", "{history}"],
    "prompts_with_candidates": ["{history} of {candidates}"],
}


def write_pristine(folder: Path) -> None:
    """Write all inputs. Paths within them are relative to the folder."""
    # The base of a model is named in its manifest: a case has its own copy of both.
    with contextlib.chdir(folder):
        _write_sources(Path())
        _write_settings(Path())
        _write_models(Path())
        _write_evaluations(Path())
        _write_runs(Path())


def _write_sources(folder: Path) -> None:
    (folder / "tables").mkdir()
    interactions, items = write_tables(folder / "tables")
    prepare_data(interactions, items, folder / "examples", DataConfig(k_core=1))
    frame = pd.read_csv(interactions)
    for name in ("parquet", "jsonl", "gzip", "published", "movielens"):
        (folder / name).mkdir()
    frame.to_parquet(folder / "parquet" / "interactions.parquet")
    frame.to_json(folder / "jsonl" / "interactions.jsonl", orient="records", lines=True)
    frame.to_csv(folder / "gzip" / "interactions.csv.gz", index=False)
    for split in ("train", "validation", "test"):
        _write_published(folder / "published" / f"{split}.jsonl")
    with zipfile.ZipFile(folder / "movielens" / "ml-100k.zip", "w") as archive:
        _write_movielens(archive)


def _write_published(path: Path) -> None:
    lines = []
    for row in range(30):
        history = "::".join(f"Film {(row + step) % 9}" for step in range(4))
        candidates = [f"Film {(row + step) % 30}" for step in range(9, 15)]
        selection = {"itemList": candidates, "trueSelection": candidates[row % 6]}
        lines.append(json.dumps({"user_id": f"u{row % 7}", "historyList": history, **selection}))
    path.write_text("\n".join(lines), encoding="utf-8")


def _write_movielens(archive: zipfile.ZipFile) -> None:
    ratings = []
    for user in range(40):
        for step in range(12):
            item = 1 + (user + step * (1 + user % 3)) % 30
            ratings.append(f"{user}\t{item}\t{1 + step % 5}\t{880_000_000 + 1000 * step + user}")
    movies = [f"{item}|Film {item} (1990)|01-Jan-1990||http://x|0|1" for item in range(1, 31)]
    contents = {"u.data": ratings, "u.item": movies, "u.genre": ["unknown|0", "Drama|1"]}
    for name, lines in contents.items():
        archive.writestr(f"ml-100k/{name}", "\n".join(lines), zipfile.ZIP_DEFLATED)


def _write_settings(folder: Path) -> None:
    (folder / "settings").mkdir()
    for name, config in _SETTINGS.items():
        _write_yaml(folder / "settings" / f"{name}.yaml", dataclasses.asdict(config))
    _write_yaml(folder / "settings" / "parameters.yaml", pipeline_parameters("training"))
    _write_yaml(folder / "template.yaml", _TEMPLATE)


def _write_yaml(path: Path, values: Mapping[str, object]) -> None:
    path.write_text(yaml.safe_dump(values), encoding="utf-8")


def _write_models(folder: Path) -> None:
    preferences = write_preferences(folder / "preferences")
    later = {split: preference_rows(split, seed=1) for split in ("train", "validation", "test")}
    write_preferences(folder / "later", later)
    fine_tune(preferences, folder / "sft", SFTConfig(**_SHORT))
    write_model(folder / "dmpo", seed=1, training_log=_LOG)
    write_tiny_llm(folder / "base")
    settings = {"backbone": "./base", "item_text": "title", "lora_rank": 4, "max_length": 256}
    fine_tune(preferences, folder / "lora", SFTConfig(**_SHORT, **settings))
    fine_tune(preferences, folder / "titles", SFTConfig(**_SHORT, **settings, tuning="full"))
    for model in ("lora", "titles"):
        manifest = read_manifest(folder / model)
        # Damage of the base shall reach its readers.
        manifest.extra["base"]["checksum"] = ""
        write_json(folder / model / "manifest.json", dataclasses.asdict(manifest))


def _write_evaluations(folder: Path) -> None:
    preferences = folder / "preferences"
    for model in ("sft", "dmpo"):
        evaluate(preferences, {model: folder / model}, folder / f"evaluation-{model}", _EVALUATION)
    for cell in plan_cells(GridConfig(num_negatives="1,3", objectives="dmpo", seeds="0,1")):
        name = str(cell.pop("cell"))
        config = PreferenceConfig(**_SHORT, **cell)
        train_preferences(preferences, folder / "sft", folder / "models" / name, config)
        models = {name: folder / "models" / name}
        evaluate(preferences, models, folder / "cells" / name, _EVALUATION)


def _write_runs(folder: Path) -> None:
    for name in ("monday", "friday"):
        run = folder / "runs" / name
        (run / "logs").mkdir(parents=True)
        task = Task("evaluate", run / "logs" / "evaluate.log", state="succeeded")
        evaluation = os.path.abspath(folder / "evaluation-sft")
        task.outputs = {"evaluation": dsl.Artifact(name="evaluation", uri=evaluation)}
        origin = {"commit": "", "image": "local processes", "package_version": "0.1.0"}
        settings = {"pipeline": "training", "parameters": {"name": name}, "runner": "subprocess"}
        summary.write(run, {**settings, **origin, "state": "succeeded"}, 1.8e9, [task])
