"""The collapse experiment with a real LLM that reads titles, within six minutes:
`python -m tests.gpu.study`.

SmolLM2-135M, titles and candidates in the prompt, on LastFM and then MovieLens-100k: SFT until
validation stops improving; DMPO and S-DPO, without and with DynamicPO, at K = 3 and 15, the last
checkpoint for all; as many seeds as fit. Rates are chosen on validation rows before any test row is
scored. A finished cell survives the time limit, and a later run with the same output goes on.
`python -m tests.gpu.report` makes the page and the table from what is left.
"""

import argparse
import hashlib
import itertools
import json
import logging
import multiprocessing
import os
import queue
import shutil
import tarfile
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

from dynamicpo.core.config import EvaluationConfig, PreferenceConfig, SFTConfig

log = logging.getLogger("study")
Job: TypeAlias = tuple[str, Any, tuple[Any, ...]]  # name, function, arguments
ROOT = Path(__file__).resolve().parents[2]
# What was brought along; a test has a folder of its own. Workers inherit the variable.
BROUGHT = Path(os.environ.get("GPU_FOLDER", ROOT / "build" / "gpu"))
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
DATA_SETS = ("lastfm", "movielens")
TEMPLATES = {"lastfm": "music", "movielens": "movies"}
ARMS = [("dmpo", False), ("dmpo", True), ("sdpo", False), ("sdpo", True)]
GENERATED_ROWS = 300
WORKERS = 3
PIECE_BYTES = 15 << 20


@dataclass(frozen=True)
class Sizes:
    """How much is done; `TINY` is for machines without a card.

    Attributes:
        sft_steps: SFT steps at most.
        sft_patience: Looks at validation without a better loss, after which SFT stops.
        eval_steps: Steps between two such looks.
        preference_epochs: Passes of preference training.
        preference_steps: Steps at most (0: by epochs).
        batch_size: Rows a step.
        evaluation_rows: Test rows (0: all).
        seeds: Seeds at most.
        num_negatives: K of the cells.
        sft_rates: Rates of SFT to choose from.
        preference_rates: Rates of preference training to choose from.
    """

    sft_steps: int = 800
    sft_patience: int = 3
    eval_steps: int = 40
    preference_epochs: float = 2.0
    preference_steps: int = 0
    batch_size: int = 32
    evaluation_rows: int = 0
    seeds: int = 5
    num_negatives: tuple[int, ...] = (3, 15)
    sft_rates: tuple[float, ...] = (3e-4, 1e-3)
    preference_rates: tuple[float, ...] = (5e-5, 2e-4, 5e-4)


TINY = Sizes(
    sft_steps=8,
    sft_patience=1,
    eval_steps=4,
    preference_epochs=1.0,
    preference_steps=2,
    batch_size=8,
    evaluation_rows=12,
    seeds=1,
    num_negatives=(2, 5),
    sft_rates=(1e-3,),
    preference_rates=(2e-4,),
)


@dataclass(frozen=True)
class Cell:
    """One training with its evaluation.

    Attributes:
        data: Data set.
        loss: Base objective.
        dynamic: With DynamicPO.
        num_negatives: K.
        seed: Seed of preference training.
        learning_rate: Its peak rate.
        split: Split that is scored: "validation" where the rate is being chosen.
    """

    data: str
    loss: str
    dynamic: bool
    num_negatives: int
    seed: int
    learning_rate: float
    split: str

    @property
    def name(self) -> str:
        kind = f"{'dynamicpo-' if self.dynamic else ''}{self.loss}-k{self.num_negatives}"
        rate = f"-rate{self.learning_rate:g}" if self.split == "validation" else ""
        return f"{kind}-seed{self.seed}{rate}"


def find_data(name: str) -> Path:
    """The folder of a data set that pack.sh left.

    Raises:
        FileNotFoundError: It was not brought along.
    """
    for folder in sorted(BROUGHT.glob("[0-9]")):
        if (folder / name).is_dir():
            return folder / name
    raise FileNotFoundError(f"build/gpu/*/{name}: not there; run tests/gpu/pack.sh first")


def join_model(folder: Path) -> Path:
    """SmolLM2 as a safetensors folder, from the two halves of its GGUF file."""
    import torch
    import transformers

    target = folder / "smollm2"
    if (target / "config.json").is_file():
        return target
    parts = sorted(BROUGHT.glob(f"*/{GGUF}.part*"))
    expected = next(BROUGHT.glob(f"*/{GGUF}.sha256")).read_text(encoding="utf-8").strip()
    joined = folder / "gguf" / GGUF
    joined.parent.mkdir(parents=True, exist_ok=True)
    with joined.open("wb") as stream:
        for part in parts:
            stream.write(part.read_bytes())
    checksum = hashlib.sha256(joined.read_bytes()).hexdigest()
    if checksum != expected:
        raise ValueError(
            f"{joined}: must have SHA-256 {expected}, got {checksum}. Bring both halves."
        )
    source = str(joined.parent)
    tokenizer = transformers.AutoTokenizer.from_pretrained(source, gguf_file=GGUF)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        source, gguf_file=GGUF, dtype=torch.float32
    )
    # Read from GGUF it holds plain weights, yet would refuse to be saved.
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.hf_quantizer = None
    model.is_quantized = False
    model.save_pretrained(str(target))
    tokenizer.save_pretrained(str(target))
    return target


def make_tiny_model(folder: Path) -> Path:
    """A Llama of two layers with a tokenizer of words, where there is no card."""
    from tests.fixtures.folders import write_title_model

    write_title_model(folder / "tiny")
    return folder / "tiny-base"


def fine_tune(data: str, backbone: Path, output: Path, sizes: Sizes, learning_rate: float) -> float:
    """SFT until validation stops improving; its HitRatio@1 on validation rows."""
    from dynamicpo.training import sft

    config = SFTConfig(
        backbone=str(backbone),
        template=TEMPLATES[data],
        list_candidates=True,
        item_text="title",
        tuning="lora",
        precision="bfloat16",
        base_weights="bfloat16",
        max_length=768,
        epochs=50.0,
        max_steps=sizes.sft_steps,
        batch_size=sizes.batch_size,
        learning_rate=learning_rate,
        patience=sizes.sft_patience,
        eval_steps=sizes.eval_steps,
    )
    folder = output / data / f"sft-rate{learning_rate:g}"
    sft.fine_tune(find_data(data) / "preferences", folder, config)
    return evaluate(
        data,
        "sft",
        folder,
        output / data / folder.name.replace("sft", "sft-on"),
        "validation",
        sizes,
    )


def evaluate(
    data: str,
    name: str,
    model: Path,
    output: Path,
    split: str,
    sizes: Sizes,
    lists: str = "preferences",
    **settings: Any,
) -> float:
    """HitRatio@1 of a model on a split."""
    from dynamicpo.evaluation import evaluate as evaluation

    values = {"split": split, "sasrec": False, "rows": sizes.evaluation_rows, "token_budget": 32768}
    values |= {"allow_leak": lists == "published", **settings}
    manifest = evaluation.evaluate(
        find_data(data) / lists, {name: model}, output, EvaluationConfig(**values)
    )
    return float(manifest.counts[f"{split}_hit_ratio_at_1"])


def run_cell(cell: Cell, sft: Path, output: Path, sizes: Sizes) -> dict[str, Any]:
    """Train and evaluate a cell; what is large of it goes away."""
    from dynamicpo.training import preference_training

    started = time.monotonic()
    config = PreferenceConfig(
        loss=cell.loss,
        dynamic="full" if cell.dynamic else "none",
        num_negatives=cell.num_negatives,
        epochs=sizes.preference_epochs,
        max_steps=sizes.preference_steps,
        batch_size=sizes.batch_size,
        learning_rate=cell.learning_rate,
        seed=cell.seed,
    )
    place = cell_folder(cell, output)
    model = place / f"{cell.name}-model"
    preferences = find_data(cell.data) / "preferences"
    manifest = preference_training.train_preferences(preferences, sft, model, config)
    trained = time.monotonic() - started
    hits = evaluate(cell.data, cell.name, model, place / cell.name, cell.split, sizes)
    extras: dict[str, float] = {}
    if cell.split == "test" and cell.seed == 0:
        extras = extra_evaluations(cell, model, output, sizes)
    report = {**asdict(cell), "hit_ratio_at_1": hits, "training_seconds": trained, **extras}
    report["seconds"] = time.monotonic() - started
    report["counts"] = manifest.counts
    shutil.copy(model / "steps.jsonl", place / f"{cell.name}.steps.jsonl")
    shutil.rmtree(model)
    (place / f"{cell.name}.json").write_text(json.dumps(report), encoding="utf-8")
    return report


def extra_evaluations(cell: Cell, model: Path, output: Path, sizes: Sizes) -> dict[str, float]:
    """Generated answers of some rows, and the published candidate lists.

    Those leak; they stand beside the ones drawn anew.
    """
    generated_rows = min(GENERATED_ROWS, sizes.evaluation_rows or GENERATED_ROWS)
    folder = output / cell.data / "generated" / cell.name
    settings = {"generate": True, "rows": generated_rows}
    evaluate(cell.data, cell.name, model, folder, "test", sizes, **settings)
    metrics = json.loads((folder / cell.name / "metrics.json").read_text(encoding="utf-8"))
    result = {"valid_ratio": metrics["test_valid_ratio"]}
    if (find_data(cell.data) / "published").is_dir():
        published = output / cell.data / "published" / cell.name
        result["published_hit_ratio_at_1"] = evaluate(
            cell.data, cell.name, model, published, "test", sizes, lists="published"
        )
    return result


def work(tasks: Any, results: Any) -> None:
    """A worker: jobs from a queue until there are none."""
    logging.disable(logging.WARNING)
    while (task := tasks.get()) is not None:
        name, function, arguments = task
        try:
            results.put((name, function(*arguments), ""))
        except Exception as error:  # a cell failing must not end the study
            results.put((name, None, f"{type(error).__name__}: {error}"[:500]))


class Workers:
    """Processes that run jobs side by side on one card, which a small model alone can't fill."""

    def __init__(self, number: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.tasks, self.results = context.Queue(), context.Queue()
        self.processes = [
            context.Process(target=work, args=(self.tasks, self.results), daemon=True)
            for _ in range(number)
        ]
        for process in self.processes:
            process.start()

    def run(self, jobs: list[Job], deadline: float) -> Iterator[tuple[str, Any]]:
        """Results as they come; no job begins that would hardly end before the deadline."""
        waiting = list(reversed(jobs))
        began: dict[str, float] = {}
        longest = 0.0
        while waiting or began:
            while waiting and len(began) < len(self.processes):
                if time.monotonic() + 1.1 * longest > deadline:
                    log.warning("%d jobs are left for a later run", len(waiting))
                    waiting.clear()
                    break
                job = waiting.pop()
                began[job[0]] = time.monotonic()
                self.tasks.put(job)
            if not began:
                return
            try:
                name, result, problem = self.results.get(
                    timeout=max(1.0, deadline - time.monotonic())
                )
            except queue.Empty:
                log.warning("time is up: %s not finished", ", ".join(began))
                return
            longest = max(longest, time.monotonic() - began.pop(name))
            if problem:
                log.error("%s: %s", name, problem)
            else:
                yield name, result


def choose_rates(
    data: str, backbone: Path, output: Path, sizes: Sizes, workers: Workers, deadline: float
) -> dict[str, float]:
    """SFT's rate and preference training's that rank validation rows best; one for all arms."""
    path = output / data / "rates.json"
    if path.is_file():
        return dict(json.loads(path.read_text(encoding="utf-8")))
    jobs: list[Job] = [
        (f"{data} sft {rate:g}", fine_tune, (data, backbone, output, sizes, rate))
        for rate in sizes.sft_rates
    ]
    hits = {}
    # What an earlier run finished is found again by the stages themselves, in seconds.
    for name, hit_ratio in workers.run(jobs, deadline):
        log.info("%s: validation HitRatio@1 %.4f", name, hit_ratio)
        hits[float(name.rpartition(" ")[2])] = hit_ratio
    if len(hits) < len(sizes.sft_rates):
        raise RuntimeError(f"{data}: SFT is left for a later run")
    rates = {"sft": max(hits, key=lambda rate: hits[rate])}
    sft = output / data / f"sft-rate{rates['sft']:g}"
    cells = [
        Cell(data, "dmpo", dynamic, max(sizes.num_negatives), 0, rate, "validation")
        for rate in sizes.preference_rates
        for dynamic in (False, True)
    ]
    reports = [read_report(cell, output) for cell in cells]
    jobs = [
        (cell.name, run_cell, (cell, sft, output, sizes))
        for cell, report in zip(cells, reports, strict=True)
        if report is None
    ]
    done = [report for report in reports if report is not None]
    for name, report in workers.run(jobs, deadline):
        log.info("%s %s: validation HitRatio@1 %.4f", data, name, report["hit_ratio_at_1"])
        done.append(report)
    if len(done) < len(cells):
        raise RuntimeError(f"{data}: {len(cells) - len(done)} rates are left for a later run")
    reached: dict[float, list[float]] = {}
    for report in done:
        reached.setdefault(report["learning_rate"], []).append(report["hit_ratio_at_1"])
    # One rate for all arms: the best mean of DMPO without and with DynamicPO.
    rates["preference"] = max(reached, key=lambda rate: sum(reached[rate]))
    details = {"sft_validation": hits, "preference_validation": reached}
    path.write_text(json.dumps({**rates, **details}, indent=1), encoding="utf-8")
    return rates


def read_report(cell: Cell, output: Path) -> dict[str, Any] | None:
    """The report of a finished cell."""
    path = cell_folder(cell, output) / f"{cell.name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def cell_folder(cell: Cell, output: Path) -> Path:
    return output / cell.data / ("rates" if cell.split == "validation" else "cells")


def run(options: argparse.Namespace) -> None:
    """Everything that fits."""
    began = time.monotonic()
    deadline = began + options.seconds
    sizes = TINY if options.tiny else Sizes()
    # Not below the results: only a few files come back from there.
    output = Path(tempfile.mkdtemp(prefix="study-")) / "study"
    output.mkdir()
    options.output.mkdir(parents=True, exist_ok=True)
    restore(output)
    workers = Workers(1 if options.tiny else WORKERS)
    # What an earlier run finished names it, so a later one, perhaps elsewhere, has the same place.
    scratch = Path(tempfile.gettempdir()) / "dynamicpo-study"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    backbone = make_tiny_model(scratch) if options.tiny else join_model(scratch)
    log.info("model: %.0f s", time.monotonic() - began)
    for seed, data in itertools.product(range(sizes.seeds), options.data):
        try:
            rates = choose_rates(data, backbone, output, sizes, workers, deadline)
        except RuntimeError as error:
            log.error("%s", error)
            continue
        sft = output / data / f"sft-rate{rates['sft']:g}"
        if not sft.is_dir():  # the rates are an earlier run's
            fine_tune(data, backbone, output, sizes, rates["sft"])
        jobs: list[Job] = []
        if not (output / data / "baselines" / "manifest.json").is_file():
            settings = (data, "sft", sft, output / data / "baselines", "test", sizes)
            jobs.append((f"{data} baselines", evaluate_baselines, settings))
        for (loss, dynamic), number in itertools.product(ARMS, sizes.num_negatives):
            cell = Cell(data, loss, dynamic, number, seed, rates["preference"], "test")
            if read_report(cell, output) is None:
                jobs.append((f"{data} {cell.name}", run_cell, (cell, sft, output, sizes)))
        for name, report in workers.run(jobs, deadline):
            hits = report["hit_ratio_at_1"] if isinstance(report, dict) else report
            log.info("%4.0f s  %s: HitRatio@1 %.4f", time.monotonic() - began, name, hits)
        pack(output, options.output)
        if time.monotonic() > deadline - 10:
            break
    pack(output, options.output)


def evaluate_baselines(
    data: str, name: str, model: Path, output: Path, split: str, sizes: Sizes
) -> float:
    """SFT with all baselines, SASRec among them, and the published lists beside them."""
    hits = evaluate(data, name, model, output, split, sizes, sasrec=True)
    generated_rows = min(GENERATED_ROWS, sizes.evaluation_rows or GENERATED_ROWS)
    folder = output.parent / "generated" / name
    evaluate(data, name, model, folder, split, sizes, generate=True, rows=generated_rows)
    if (find_data(data) / "published").is_dir():
        published = output.parent / "published" / name
        evaluate(data, name, model, published, split, sizes, lists="published")
    return hits


def restore(output: Path) -> None:
    """What an earlier run left, where it was brought along."""
    pieces = sorted(BROUGHT.glob("*/study.tar.gz.*"))
    if not pieces:
        return
    joined = output / "earlier.tar.gz"
    joined.write_bytes(b"".join(piece.read_bytes() for piece in pieces))
    with tarfile.open(joined) as tar:
        tar.extractall(output, filter="data")
    joined.unlink()


def pack(output: Path, target: Path) -> None:
    """Evaluations, logs and SFT's adapters, in pieces that are small enough to come back."""
    whole = target / ".study.tar.gz"
    with tarfile.open(whole, "w:gz") as tar:
        for path in sorted(output.rglob("*")):
            name = path.relative_to(output)
            # An evaluation comes back whole, since its manifest names all of its files, and SFT's
            # adapters do, as later runs go on from them. A model of a cell is trained anew.
            is_partial = any(part.startswith(".") or part.endswith("-model") for part in name.parts)
            if path.is_file() and not is_partial:
                tar.add(path, name)
    data = whole.read_bytes()
    whole.unlink()
    for number, start in enumerate(range(0, len(data), PIECE_BYTES)):
        piece = target / f"study.tar.gz.{number}"
        piece.write_bytes(data[start : start + PIECE_BYTES])


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n\n")[0])
    parser.add_argument(
        "--tiny", action="store_true", help="tiny sizes, for machines without a card"
    )
    parser.add_argument("--seconds", type=float, default=345, help="time for everything")
    parser.add_argument("--data", nargs="+", choices=DATA_SETS, default=list(DATA_SETS))
    parser.add_argument("--output", type=Path, default=Path("build/gpu/results"))
    options = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("dynamicpo").setLevel(logging.WARNING)
    run(options)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
