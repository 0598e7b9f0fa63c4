"""The benchmark of peers where no peer is installed: its numbers, its table, its error rows."""

import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from torch.nn.functional import logsigmoid

from dynamicpo.objective.dynamicpo import preference_losses
from tests.benchmarks.peers import __main__ as peers
from tests.benchmarks.peers import compare_training, environments, our_metrics, processes
from tests.benchmarks.peers.compare_metrics import against_ours
from tests.benchmarks.peers.our_training import pair_losses, train_rows
from tests.benchmarks.peers.rows import encoded_rows, quality, ranked_rows
from tests.benchmarks.peers.tables import largest_difference, megabytes, table, verdict
from tests.fixtures.models import write_tiny_llm
from tests.fixtures.sampled_rows import sampled_rows
from tests.fixtures.tables import write_tables

os.environ["NUMBA_DISABLE_JIT"] = "1"  # compiling ranx takes a minute
from tests.benchmarks.peers import ranx_metrics  # noqa: E402

COLUMNS = {
    "way": ("way", "s"),
    "seconds": ("seconds", ".1f"),
    "peak_bytes": ("memory", megabytes),
    "equal": ("equal", "s"),
}


def test_a_line_without_numbers_shows_its_error() -> None:
    lines = [
        {"way": "ours", "seconds": 1.25, "peak_bytes": 1234e6, "equal": "yes"},
        {"way": "TRL", "error": "ImportError: a | b"},
    ]
    assert table(lines, COLUMNS).splitlines() == [
        "| way | seconds | memory | equal |",
        "| --- | --- | --- | --- |",
        "| ours | 1.2 | 1,234 MB | yes |",
        r"| TRL | ImportError: a \| b |  |  |",
    ]


def test_numbers_are_equal_within_the_tolerance() -> None:
    assert largest_difference([1, 2.5, 3], [1, 2, 3.25]) == 0.5
    assert verdict(1e-5, 1e-4) == "yes (1e-05)"
    assert verdict(2e-4, 1e-4) == "NO (2e-04)"
    assert verdict(math.nan, 1e-4) == "NO (nan)"


def test_lines_are_compared_to_trl_where_both_have_run() -> None:
    trl = {"way": "TRL", "losses": [0.7, 0.5], "seconds": 6.0}
    ours = {"way": "ours", "losses": [0.7, 0.4], "seconds": 2.0}
    broken = {"way": "published", "error": "killed"}
    first, second, third = compare_training.against_first([trl, ours, broken])
    assert (first, third) == (trl, broken)
    assert second["faster"] == 3
    assert second["equal"] == "NO (1e-01)"
    assert compare_training.against_first([broken, ours]) == [broken, ours]


def test_the_mean_over_pairs_is_that_of_dpo() -> None:
    generator = torch.Generator().manual_seed(0)
    logps, reference = torch.randn(2, 5, 4, generator=generator)
    rewards = 0.3 * (logps - reference)
    by_hand = -logsigmoid(rewards[:, :1] - rewards[:, 1:]).mean(1)
    torch.testing.assert_close(pair_losses(logps, reference, 0.3), by_hand)
    for loss in ("dpo", "sdpo", "dmpo"):
        values = [logps[:, 0], logps[:, 1:2], reference[:, 0], reference[:, 1:2]]
        of_one = preference_losses(*values, loss=loss, dynamic=False, beta=0.3)
        of_a_pair = pair_losses(logps[:, :2], reference[:, :2], 0.3)
        torch.testing.assert_close(of_one.losses, of_a_pair)


def test_the_published_way_and_ours_train_alike(tmp_path: Path) -> None:
    preferences = sampled_rows(tmp_path, *write_tables(tmp_path))
    model = write_tiny_llm(tmp_path / "llm")
    rows = encoded_rows(preferences, model, 2, 3)
    request = {
        **compare_training.SETTINGS,
        "steps": 3,
        "model": str(model),
        "rows": [vars(row) for row in rows],
        "loss": "pairs",
    }
    ours, published = (train_rows({**request, "way": way}) for way in ("ours", "published"))
    losses = ours["losses"]
    assert losses[0] == pytest.approx(math.log(2))
    assert losses[2] < losses[1] < losses[0]
    assert largest_difference(losses, published["losses"]) < compare_training.TOLERANCE


def test_quality_ranks_lists_and_what_is_outside_of_the_history() -> None:
    items = pd.DataFrame({"item_id": list("abcdefghij")})
    columns = {
        "history": [["a"], ["b", "c"]],
        "target": ["b", "a"],
        "candidates": [list("cbefg"), list("adefg")],
    }
    rows = ranked_rows(pa.table(columns), items)
    assert rows.targets.tolist() == [1, 0]
    assert rows.target_index.tolist() == [1, 0]
    scores = np.array([[9.0, 2, 1, 3, *[0] * 6], [4.0, 9, 9, 5, *[0] * 6]])
    found = quality(scores, rows)
    # In the lists b is the first, and a the second, after d.
    assert found["hit_ratio_at_1"] == 1 / 2
    assert found["ndcg_at_5"] == pytest.approx((1 + 1 / math.log2(3)) / 2)
    # Among all items both come after d alone: what scores higher is in the row's history.
    assert found["catalogue_ndcg_at_10"] == pytest.approx(1 / math.log2(3))


def test_metrics_are_those_of_ranx() -> None:
    rng = np.random.default_rng(0)
    scores, targets = rng.random((50, 20)), rng.integers(0, 20, 50)
    ours = our_metrics.values(scores, targets)
    line = {"way": "ranx", "values": ranx_metrics.values(scores, targets)}
    wrong = {"way": "wrong", "values": {**ours, "mrr": ours["mrr"] + 1e-6}}
    compared = against_ours([{"way": "ours", "values": ours}, line, wrong, {"error": "no"}])
    equal = [each.get("equal") for each in compared]
    assert equal[0] is None
    assert equal[1].startswith("yes")
    assert equal[2] == "NO (1e-06)"
    assert equal[3] is None


def test_the_end_of_stderr_is_the_error() -> None:
    text = "Traceback\nImportError: first\nsome noise\nImportError: Unable:\n  numpy: missing\n\n"
    assert environments.last_error(text) == "ImportError: Unable: numpy: missing"
    assert environments.last_error("Killed\n") == "Killed"
    assert environments.last_error("") == ""


def test_what_cannot_be_installed_is_an_error_in_its_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environments, "FOLDER", tmp_path)
    requirements = tmp_path / "requirements.txt"
    requirements.write_text("nowhere @ file:///nowhere/nowhere-1.tar.gz\n")
    line = processes.tried(
        {"way": "x"}, lambda: {"python": environments.environment_python("x", requirements)}
    )
    assert line["way"] == "x"
    assert "/nowhere/nowhere-1.tar.gz" in line["error"]
    assert not (tmp_path / "x" / "installed.txt").exists()


def test_an_environment_is_made_once_and_sees_the_projects_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(environments, "FOLDER", tmp_path)
    requirements = tmp_path / "requirements.txt"
    requirements.write_text("# nothing\n")
    python = environments.environment_python("x", requirements)
    assert "made in" in capsys.readouterr().out
    assert environments.environment_python("x", requirements) == python
    assert capsys.readouterr().out == ""
    code = "import psutil, sys; print(psutil.__file__, sys.prefix)"
    shown = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.split() == [sys.modules["psutil"].__file__, str(tmp_path / "x")]


def test_a_peer_that_fails_or_takes_too_long_ends_in_its_error() -> None:
    with pytest.raises(environments.PeerError, match="No module named tests.benchmarks.peers.nob"):
        processes.ask("nobody", {})
    with pytest.raises(environments.PeerError, match=r"took longer than 0.01 s"):
        processes.ask("our_metrics", {}, most_seconds=0.01)


def test_a_peer_answers_and_its_children_count(tmp_path: Path) -> None:
    np.save(tmp_path / "scores.npy", np.array([[0.1, 0.2] * 5]))
    np.save(tmp_path / "targets.npy", np.array([1]))
    request = {name: str(tmp_path / f"{name}.npy") for name in ("scores", "targets")}
    answer = processes.ask("our_metrics", request)
    assert answer["values"]["hit_ratio_at_1"] == pytest.approx(1 / 5)
    # More than the bare interpreter that the first look from outside sees.
    assert answer["peak_bytes"] >= answer["own_peak_bytes"] > 25e6
    child = "x = b'1' * 200_000_000; print(1, flush=True); input()"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"1\n"
    assert processes._resident_bytes(process.pid) > 200e6
    process.communicate(b"\n")


def test_names_are_checked(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        peers.main(["recbole", "rexbole"])
    assert stop.value.code == 2
    assert "unknown rexbole; choose from trl, recbole, metrics" in capsys.readouterr().err
