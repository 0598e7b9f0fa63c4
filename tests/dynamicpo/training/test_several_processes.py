"""Trainings in two processes: the curve of one, sums over both, one that writes, kills, errors."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch.distributed.tensor import DTensor

from dynamicpo.core.config import NegativesConfig
from dynamicpo.core.records.manifest import read_manifest
from dynamicpo.core.storage import exists
from dynamicpo.models.checkpoints import load_model
from dynamicpo.negatives.sampling import sample_negatives
from tests.fixtures import killed_trainings
from tests.fixtures.killed_trainings import (
    COMMAND,
    QUIET,
    SHARDED,
    SHARDED_AND_KILLED,
    TERMINATED,
    run,
    run_group,
    trained_adapter,
)
from tests.fixtures.sampled_rows import sampled_rows
from tests.fixtures.tables import write_tables

pytestmark = pytest.mark.training
stages = pytest.mark.parametrize("stage", ["sft", "preference"])
# Relative, of the loss over twelve steps of float32 whose sums have another order. An adapter that
# starts at zero has gradients so small that Adam makes steps of their rounding: one process with
# other micro-batches differs as much.
TOLERANCES = {"sft": 2e-5, "preference": 3e-4}
NO_MOMENT = ""


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """In every process: how many threads share a product depends on what else the machine does."""
    num_threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        torch.set_num_threads(1)
        yield
    torch.set_num_threads(num_threads)


@pytest.fixture(scope="module")
def preferences(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rows")
    return sampled_rows(folder, *write_tables(folder))


@pytest.fixture(scope="module")
def adapter(preferences: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA adapter, so that the second stage trains few weights of a frozen model."""
    return trained_adapter(preferences, tmp_path_factory.mktemp("adapter"))


def read_steps(output: Path) -> list[dict[str, float]]:
    lines = (output / "steps.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


@stages
def test_two_processes_have_the_curve_of_one_and_write_one_output(
    stage: str, preferences: Path, adapter: Path, tmp_path: Path
) -> None:
    """The last batch of a pass has a single row, which one of the two processes lacks."""
    paths = (preferences, adapter)
    alone = run(stage, *paths, tmp_path / "one", "", QUIET)
    ended = run_group([QUIET] * 2, stage, *paths, tmp_path / "two", "")
    assert [process.code for process in ended] == [0, 0], ended
    together = read_manifest(tmp_path / "two")
    assert together.files.keys() == alone.files.keys()
    ones, twos = (read_steps(tmp_path / name) for name in ("one", "two"))
    # Every metric of the first step; afterwards some are counts of signs that rounding may flip.
    assert twos[0] == pytest.approx(ones[0], rel=1e-5, abs=1e-5)
    losses, expected = ([step["loss"] for step in steps] for steps in (twos, ones))
    assert losses == pytest.approx(expected, rel=TOLERANCES[stage])
    best = "best_validation_loss" if stage == "sft" else "best_validation_error_rate"
    assert best in alone.counts
    for name in ("rows", "steps", "best_step", best):
        counted = together.counts.get(name, 0)
        assert counted == pytest.approx(alone.counts.get(name, 0), rel=TOLERANCES[stage])
    assert "work together" in ended[0].log and "validation" not in ended[1].log
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"]


@pytest.fixture(scope="module")
def uninterrupted(
    preferences: Path, adapter: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Two stages that two processes have trained, with noise."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    for stage in ("sft", "preference"):
        run_group([NO_MOMENT] * 2, stage, preferences, adapter, folder / stage, "")
    return folder


def check_same(output: Path, expected: Path) -> None:
    assert read_manifest(output).fingerprint == read_manifest(expected).fingerprint


@stages
def test_a_killed_process_ends_the_other_and_both_go_on_bit_for_bit(
    stage: str,
    preferences: Path,
    adapter: Path,
    uninterrupted: Path,
    tmp_path: Path,
) -> None:
    paths = (preferences, adapter, tmp_path / "output", tmp_path / "kept")
    main, other = run_group([NO_MOMENT, "computing"], stage, *paths)
    assert other.code == -signal.SIGKILL
    assert main.code != 0 and not (tmp_path / "output").exists()
    assert "2 processes must live to the end, but one can't be reached any more" in main.log
    again = run_group([NO_MOMENT] * 2, stage, *paths)
    assert [process.code for process in again] == [0, 0], again
    assert f"going on from step {killed_trainings.INTERVALS[stage]} of 12" in again[0].log
    check_same(tmp_path / "output", uninterrupted / stage)
    assert not exists(str(tmp_path / "kept"))


def test_two_processes_evaluate_to_the_bytes_of_one(
    preferences: Path, adapter: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    """Titles by the tree of tokens, items of one token each by a softmax; listed ones, too."""
    for number, model in enumerate((adapter, uninterrupted / "sft")):
        alone, together = tmp_path / f"{number}-alone", tmp_path / f"{number}-together"
        run("evaluation", preferences, model, alone, "")
        ended = run_group([NO_MOMENT] * 2, "evaluation", preferences, model, together, "")
        assert [process.code for process in ended] == [0, 0], ended
        check_same(together, alone)


def test_sigterm_of_one_process_stops_both_after_the_same_step(
    preferences: Path, adapter: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    paths = (preferences, adapter, tmp_path / "output", tmp_path / "kept")
    ended = run_group([COMMAND, TERMINATED], "sft", *paths)
    assert [process.code for process in ended] == [143, 143], ended
    assert "checkpoint at step 3" in ended[0].log and "Traceback" not in ended[0].log
    run_group([NO_MOMENT] * 2, "sft", *paths)
    check_same(tmp_path / "output", uninterrupted / "sft")


def test_layers_in_parts_train_as_whole_ones_and_go_on_after_a_kill(
    preferences: Path, adapter: Path, tmp_path: Path
) -> None:
    """LoRA and FSDP; that the weights are parts is asserted where they are made."""
    paths = (preferences, adapter)
    run("preference", *paths, tmp_path / "one", "", QUIET)
    kept = tmp_path / "kept"
    killed = run_group([SHARDED, SHARDED_AND_KILLED], "preference", *paths, tmp_path / "two", kept)
    assert killed[1].code == -signal.SIGKILL
    ended = run_group([SHARDED] * 2, "preference", *paths, tmp_path / "two", kept)
    assert [process.code for process in ended] == [0, 0], ended
    assert "going on from step 5 of 12" in ended[0].log
    ones, twos = (read_steps(tmp_path / name) for name in ("one", "two"))
    assert twos[0] == pytest.approx(ones[0], rel=1e-5, abs=1e-5)
    losses, expected = ([step["loss"] for step in steps] for steps in (twos, ones))
    assert losses == pytest.approx(expected, rel=TOLERANCES["preference"])
    assert (
        read_manifest(tmp_path / "two").files.keys() == read_manifest(tmp_path / "one").files.keys()
    )
    loaded = load_model(tmp_path / "two")
    assert not any(isinstance(weight.data, DTensor) for weight in loaded.model.parameters())


def test_bad_input_is_said_once(preferences: Path, adapter: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "no-model"
    ended = run_group([COMMAND] * 2, "preference", preferences, wrong, tmp_path / "output", "none")
    assert [process.code for process in ended] == [2, 2]
    logs = "".join(process.log for process in ended)
    assert logs.count("must be the finished output of a stage") == 1
    assert "Traceback" not in logs


def test_processes_with_other_data_are_refused(
    preferences: Path, adapter: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    sample_negatives(
        preferences.parent / "examples", other, NegativesConfig(num_candidates=6, seed=1)
    )
    paths = [(rows, adapter, tmp_path / "output", "none") for rows in (preferences, other)]
    ended = run_group([COMMAND] * 2, "sft", *paths[0], others=paths[1])
    assert [process.code for process in ended] == [2, 2], ended
    assert "process 1: must have the configuration and inputs of process 0" in ended[1].log
    assert not list(tmp_path.glob("*output*"))


def test_memory_that_one_process_lacks_makes_smaller_micro_batches_for_both(
    preferences: Path, adapter: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    paths = (preferences, adapter, tmp_path / "output", "")
    ended = run_group([NO_MOMENT, "out of memory"], "sft", *paths)
    assert [process.code for process in ended] == [0, 0], ended
    assert "out of memory in another process: micro-batches of" in ended[0].log
    enough, less = read_steps(uninterrupted / "sft"), read_steps(tmp_path / "output")
    # Noise of smaller micro-batches differs, from the step on in which memory ran out.
    assert less[:2] == enough[:2] and len(less) == len(enough)
    assert less[2]["loss"] == pytest.approx(enough[2]["loss"], rel=0.05)
