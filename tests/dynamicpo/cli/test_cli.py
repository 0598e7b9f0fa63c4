"""The command line: flags, files, messages and exit codes."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dynamicpo.cli.commands import stages
from dynamicpo.cli.commands.table import COMMANDS
from dynamicpo.cli.main import main
from tests.fixtures.tables import write_tables

HEAVY = (
    "torch",
    "transformers",
    "kfp",
    "pandas",
    "pyarrow",
    "numpy",
    "evidently",
    "duckdb",
    "ibis",
    "matplotlib",
    "scipy",
    "sklearn",
    "peft",
    "datasets",
    "tokenizers",
    "docker",
    "kfp_server_api",
    "kubernetes",
    "google.cloud",
    "requests",
    "jinja2",
)
PROBE = f"""
import resource, sys
from dynamicpo.cli.main import main
code = main(sys.argv[1:])
loaded = [name for name in {HEAVY!r} if name in sys.modules]
print(code, loaded, resource.getrusage(resource.RUSAGE_SELF).ru_utime, file=sys.stderr)
"""
Capture = pytest.CaptureFixture[str]


def fail(capsys: Capture, *argv: str, code: int = 2) -> str:
    """The message of a command that must end with this code, with nothing on stdout."""
    assert main(argv) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in err
    return err


@pytest.mark.parametrize(
    "argv",
    [
        ["--help"],
        ["sft", "--help"],
        ["evalaute"],
        ["sft", "--num-negatves", "3"],
        ["sft", "--epochs", "many"],
        ["train-preferences", "--loss", "dmpoo"],
        ["train-preferences", "--config", "/nowhere.yaml"],
        ["sft", "--preferences", "/nowhere", "--output", "x"],
        ["sft", "--preferences", "/nowhere", "--output", "x", "--template", "movis"],
        [
            "train-preferences",
            "--preferences",
            "/nowhere",
            "--adapter",
            "/nowhere",
            "--output",
            "x",
        ],
        ["evaluate", "--preferences", "/nowhere", "--model", "sft=/nowhere", "--output", "x"],
        ["evaluate", "--preferences", "/nowhere", "--model", "random=/nowhere", "--output", "x"],
        ["run", "trainin"],
        ["run", "training", "--param", "sft_epoch=3"],
        ["run", "training", "--param", "objectives=dmpoo"],
        ["run", "training", "--param", "sft_template=movis"],
        ["compile", "training", "--image", "", "-o", "x.yaml"],
        ["compile", "training", "--image", "registry/dynamicpo:v1", "-o", "x.yaml"],
    ],
    ids=" ".join,
)
def test_help_and_mistakes_answer_at_once(argv: list[str]):
    """They import nothing heavy and take less than half a second."""
    done = subprocess.run(
        [sys.executable, "-c", PROBE, *argv], capture_output=True, text=True, check=True
    )
    code, rest = done.stderr.splitlines()[-1].split(" ", 1)
    loaded, seconds = rest.rsplit(" ", 1)
    assert (code, loaded) == ("0" if "--help" in argv else "2", "[]")
    assert float(seconds) < 0.5


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str, capsys: Capture):
    assert main([command, "--help"]) == 0
    assert f"usage: dynamicpo {command}" in capsys.readouterr().out


@pytest.mark.parametrize(("argv", "code"), [(["--version"], 0), (["evalaute"], 2)])
def test_the_package_runs_as_a_module(argv: list[str], code: int):
    command = [sys.executable, "-m", "dynamicpo", *argv]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    out, err = ("0.", "") if code == 0 else ("", "dynamicpo: command: unknown name")
    assert done.returncode == code
    assert done.stdout.startswith(out) and done.stderr.startswith(err)


def test_no_command_shows_the_help(capsys: Capture):
    assert "usage: dynamicpo" in fail(capsys)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["evalaute"], "command: unknown name 'evalaute'.*Did you mean 'evaluate'"),
        (
            ["train-preferences", "--num-negatves", "3"],
            "unknown name '--num-negatves'.*Did you mean '--num-negatives'",
        ),
        (["train-preferences", "--num-neg", "3"], "unknown name '--num-neg'"),
        (
            ["sft", "--epochs"],
            "sft: argument --epochs: expected one argument. See `dynamicpo sft --help`",
        ),
        (["sft", "more"], "sft: unexpected argument 'more'"),
        (["sft", "--epochs", "many"], "epochs must be a finite number, got 'many'"),
        (["sft", "--backbone", "compac"], "backbone: .* got 'compac'. Did you mean 'compact'"),
        (["sft", "--epochs", "0"], "epochs: must be > 0, got 0"),
        (["train-preferences", "--epochs", "-1"], "epochs: must be > 0, got -1"),
        (
            [
                "evaluate",
                "--preferences",
                "p",
                "--output",
                "o",
                "--model",
                "random=x",
                "--model",
                "a b=y",
            ],
            "(?s)model name: must not be one of .*got 'random'.*got 'a b'",
        ),
        (["sft", "--learning-rate", "inf"], "learning_rate: must be a finite number, got inf"),
        (
            ["sft", "--epochs", "x", "--rows", "y", "--seed", "-1"],
            "(?s)rows must be .*epochs must be .*seed: must be >=",
        ),
        (
            ["sft", "--preferences", "p", "--output", "o", "--template", "movis"],
            "template.*Did you mean 'movies'",
        ),
        (
            [
                "train-preferences",
                "--preferences",
                "/nowhere",
                "--adapter",
                "/none",
                "--output",
                "o",
            ],
            "(?s)/nowhere: must be .*does not exist.*/none: must be .*does not exist",
        ),
        (["sft", "--tuning", "lroa"], "tuning: unknown name 'lroa'.*Did you mean 'lora'"),
        (
            ["train-preferences", "--loss", "dmpoo", "--beta", "0"],
            "(?s)loss: unknown name 'dmpoo'.*beta: must be >= ",
        ),
        (["train-preferences", "--seed", "-1"], "seed: must be >= 0, got -1"),
        (["sft"], "sft: --preferences, --output must be given"),
        (
            ["evaluate", "--preferences", "p", "--output", "o", "--model", "sft"],
            "--model: must be NAME=DIR",
        ),
        (
            ["evaluate", "--preferences", "p", "--output", "o", "--model", "a=x", "--model", "a=y"],
            "--model: must be NAME=DIR, each name once",
        ),
        (
            ["run", "training", "--param", "sft_epochs"],
            "--param: must be NAME=VALUE, got 'sft_epochs'",
        ),
        (
            ["run", "training", "--param", "sft_template=movis"],
            "sft_template: .*Did you mean 'movies'",
        ),
        (["run", "training", "--workers", "two"], "argument --workers: invalid int value: 'two'"),
        (["compile", "training", "-o", "x.yaml"], "--image"),
        (
            ["compile", "training", "-o", "x.yaml", "--image", "python:3"],
            "--image: must be named by digest.*python:3",
        ),
        (
            ["compile", "training", "-o", "x.txt", "--image", "python:3"],
            "--output: must end in .yaml or .yml",
        ),
        (
            ["sample-negatives", "--examples", "/nowhere", "--output", "/tmp/x"],
            "/nowhere: must be .*does not exist",
        ),
        (["runs", "/nowhere"], "/nowhere: must be a folder of runs"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes_are_named(argv: list[str], message: str, capsys: Capture):
    assert re.search(message, fail(capsys, *argv))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("k_cor: 3", "settings.yaml: unknown name 'k_cor'.*Did you mean 'k_core'"),
        ("k_core: [", "settings.yaml: must be YAML"),
        ("- k_core", "settings.yaml: must hold names and values, got list"),
        ("k_core: three", "k_core must be a whole number, got 'three'"),
        ("k_core: 1.5", "k_core: must be a whole number, got 1.5"),
    ],
)
def test_mistakes_in_a_file_are_named(text: str, message: str, tmp_path: Path, capsys: Capture):
    (tmp_path / "settings.yaml").write_text(text)
    error = fail(
        capsys, "prepare-data", "--output", "x", "--config", str(tmp_path / "settings.yaml")
    )
    assert re.search(message, error)


def test_a_path_that_cannot_be_used_is_named(tmp_path: Path, capsys: Capture):
    assert f"{tmp_path}: can't be used: Is a directory" in fail(
        capsys, "sft", "--config", str(tmp_path)
    )


def prepare(folder: Path, *argv: str) -> list[str]:
    interactions, items = write_tables(folder)
    return ["prepare-data", "--interactions", interactions, "--items", items, *argv]


def test_a_stage_prints_its_counts_and_where_they_are(tmp_path: Path, capsys: Capture):
    assert main(prepare(tmp_path, "--output", str(tmp_path / "examples"))) == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[-1] == str(tmp_path / "examples")
    counts = json.loads((tmp_path / "examples" / "manifest.json").read_text())["counts"]
    assert dict(line.split() for line in out.splitlines()[:-1]) == {
        name: str(value) for name, value in counts.items()
    }
    assert "examples" in err


def test_flags_win_over_the_file_which_may_hold_paths(tmp_path: Path, capsys: Capture):
    interactions, items = write_tables(tmp_path)
    settings = {
        "interactions": interactions,
        "items": items,
        "k_core": 2,
        "max_history": 7,
        "split": "leave-one-out",
    }
    (tmp_path / "settings.yaml").write_text(json.dumps(settings))
    argv = [
        "--config",
        str(tmp_path / "settings.yaml"),
        "--output",
        str(tmp_path / "out"),
        "--k-core",
        "3",
        "--json",
    ]
    assert main(["prepare-data", *argv]) == 0
    result = json.loads(capsys.readouterr().out)
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    config = {
        name: manifest["config"][name] for name in ("k_core", "max_history", "split", "min_history")
    }
    assert config == {"k_core": 3, "max_history": 7, "split": "leave-one-out", "min_history": 3}
    assert result["output"] == str(tmp_path / "out")
    assert result["counts"] == manifest["counts"]


def test_an_output_of_other_settings_is_refused(tmp_path: Path, capsys: Capture):
    argv = prepare(tmp_path, "--output", str(tmp_path / "examples"))
    assert main(argv) == 0
    capsys.readouterr()
    assert "k_core (5, asked for 2)" in fail(capsys, *argv, "--k-core", "2")


def test_models_of_a_file_may_be_a_mapping_or_texts():
    expected = {"sft": Path("a"), "dmpo": Path("b")}
    assert (
        stages._named_models({"sft": "a", "dmpo": "b"})
        == stages._named_models(["sft=a", "dmpo=b"])
        == expected
    )


def leaky_rows() -> list[dict[str, Any]]:
    """Published rows whose list depends on the target alone, as in the released data sets."""
    titles = [f"Film {number}" for number in range(40)]
    targets = [(row * 7) % 40 for row in range(200)]
    return [
        {
            "historyList": [titles[(target + row) % 40] for row in range(1, 5)],
            "itemList": [titles[(target + 1 + step * (1 + target % 5)) % 40] for step in range(5)]
            + [titles[target]],
            "trueSelection": titles[target],
        }
        for target in targets
    ]


def test_a_leak_ends_with_exit_code_3(tmp_path: Path, capsys: Capture):
    for split in ("train", "test"):
        (tmp_path / f"{split}.jsonl").write_text(
            "".join(json.dumps(row) + "\n" for row in leaky_rows())
        )
    argv = [
        "audit-candidates",
        "--train",
        str(tmp_path / "train.jsonl"),
        "--test",
        str(tmp_path / "test.jsonl"),
    ]
    assert main(argv) == 3
    audit = json.loads(capsys.readouterr().out)
    assert audit["leak"] is True
    assert audit["hit_ratio_at_1"] > audit["high"]


def test_runs_are_listed_with_their_state_and_headline(tmp_path: Path, capsys: Capture):
    for name, started, state in (
        ("b", "2026-01-01T00:00:00Z", "succeeded"),
        ("a", "2026-01-02T00:00:00Z", "failed"),
    ):
        (tmp_path / name).mkdir()
        metrics = (
            {"sft": {"test_hit_ratio_at_1": 0.25, "test_hit_ratio_at_1_low": 0.2}}
            if state == "succeeded"
            else {}
        )
        summary = {
            "pipeline": "training",
            "state": state,
            "started": started,
            "seconds": 12.5,
            "metrics": metrics,
        }
        (tmp_path / name / "summary.json").write_text(json.dumps(summary))
    assert main(["runs", str(tmp_path)]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.split() == ["b", "succeeded", "12", "s", "HitRatio@1:", "sft", "0.250"]
    assert second.split() == ["a", "failed", "12", "s"]


def test_a_reader_that_leaves_is_no_error():
    program = "from dynamicpo.cli.main import main; raise SystemExit(main())"
    command = f"{sys.executable} -c '{program}' sft --help | head -1"
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, check=False, env=dict(os.environ)
    )
    assert (done.returncode, done.stderr) == (0, "")
