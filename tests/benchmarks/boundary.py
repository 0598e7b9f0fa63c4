"""Cost of the boundary selection.

Run `python -m tests.benchmarks.boundary [--row-seconds 0.89]`.

For K negatives and a batch of 64 rows on one core: the selection alone, all that DynamicPO adds to
a plain loss (selection and betas), and the authors' way, scikit-learn's KMeans row by row. Medians
of 25 repeats; KMeans runs once.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits

from dynamicpo.objective.boundary import boundary_negatives
from dynamicpo.objective.dynamicpo import preference_losses

ROWS = 64
KS = (3, 5, 10, 15, 19, 32, 50, 64, 96, 128)
REPORT = Path("build/benchmarks/boundary.json")
SMOLLM_ROW_SECONDS = (
    0.89  # SmolLM2-135M, a LastFM row at K = 15, forward and backward on two cores: DESIGN.md
)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Cost of the boundary selection")
    parser.add_argument(
        "--row-seconds", type=float, default=SMOLLM_ROW_SECONDS, help="time to train a row"
    )
    row_seconds = parser.parse_args(argv).row_seconds
    torch.set_num_threads(1)
    with threadpool_limits(1):
        lines = [measure(num_negatives, row_seconds) for num_negatives in KS]
    show(lines, row_seconds)
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    report = {"rows": ROWS, "threads": 1, "row_seconds": row_seconds, "results": lines}
    REPORT.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return 0


def measure(num_negatives: int, row_seconds: float) -> dict[str, float]:
    """Seconds per row, and shares of a row's training time."""
    generator = torch.Generator().manual_seed(0)
    rejected = torch.randn(ROWS, num_negatives, generator=generator) * 8 - 60
    chosen = rejected.amax(1) + 2 * torch.randn(ROWS, generator=generator)
    selection = seconds_per_row(lambda: boundary_negatives(chosen, rejected))
    plain = seconds_per_row(lambda: preference_losses(chosen, rejected, dynamic=False))
    dynamic = seconds_per_row(lambda: preference_losses(chosen, rejected))
    return {
        "num_negatives": num_negatives,
        "selection_seconds_per_row": selection,
        "selection_share": selection / row_seconds,
        "dynamicpo_seconds_per_row": dynamic - plain,
        "dynamicpo_share": (dynamic - plain) / row_seconds,
        "kmeans_seconds_per_row": seconds_per_row(lambda: row_by_row(rejected), repeats=1),
    }


def row_by_row(rejected: torch.Tensor) -> None:
    """As the authors' code does it, a copy to the host included."""
    for values in rejected.numpy():
        KMeans(3, n_init=10, random_state=0).fit(values[:, None])


def seconds_per_row(run: Callable[[], object], repeats: int = 25) -> float:
    run()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times) / ROWS


def show(lines: list[dict[str, float]], row_seconds: float) -> None:
    print(f"batch of {ROWS} rows on one core; share of {row_seconds:g} s a row")
    print(
        f"{'K':>4} {'selection':>12} {'share':>9} {'DynamicPO':>12} {'share':>9} "
        f"{'KMeans':>12} {'ratio':>7}"
    )
    for line in lines:
        selection, added, kmeans = (
            1e6 * line[f"{name}_seconds_per_row"] for name in ("selection", "dynamicpo", "kmeans")
        )
        print(
            f"{line['num_negatives']:>4.0f} {selection:>9.1f} us {line['selection_share']:>9.4%} "
            f"{added:>9.1f} us {line['dynamicpo_share']:>9.4%} "
            f"{kmeans:>9.0f} us {kmeans / selection:>6.0f}x"
        )


if __name__ == "__main__":
    raise SystemExit(main())
