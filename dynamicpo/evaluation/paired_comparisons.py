"""Paired differences between models on the same rows."""

from collections.abc import Iterable, Mapping, Sequence

from dynamicpo.core.choices import BASELINES
from dynamicpo.evaluation.results import (
    BESIDE_METRICS,
    COMPARED_METRIC,
    ModelResult,
)
from dynamicpo.metrics.intervals import holm, paired_difference
from dynamicpo.reports.pages.comparisons import PairedComparison

_RESAMPLES_PER_COMPARISON = 100


def paired_comparisons(
    results: Mapping[str, ModelResult],
    models: Sequence[str],
    resamples: int,
    seed: int,
    first_pairs: Sequence[tuple[str, str]] = (),
    metric: str = COMPARED_METRIC,
) -> list[PairedComparison]:
    """Compare every model with the first, with `sft` and with the baselines but chance.

    Args:
        results: Results of models and baselines by name, on the same rows.
        models: The names of the models among them, in order.
        resamples: Bootstrap resamples of users; at least 100 for each comparison are taken, else no
            corrected p could be small (p is never below 2 / (resamples + 1)).
        seed: Seed of the bootstrap.
        first_pairs: Other pairs of models, which come first.
        metric: The measure that is compared.

    Returns:
        The comparisons; `p_holm` is corrected for all of them.
    """
    pairs = _pairs(results, models, first_pairs)
    fewest_resamples = _RESAMPLES_PER_COMPARISON * len(pairs)
    resamples = max(resamples, fewest_resamples)
    comparisons = []
    for a, b in pairs:
        comparison = _compare(a, b, results, resamples, seed, metric)
        comparisons.append(comparison)
    # Rows of a single user have no p, and are no tests to correct for.
    tested = []
    p_values = []
    for comparison in comparisons:
        p = comparison["p"]
        if p is not None:
            tested.append(comparison)
            p_values.append(p)
    for comparison, corrected in zip(tested, holm(p_values), strict=True):
        comparison["p_holm"] = corrected
    return comparisons


def _pairs(
    results: Mapping[str, ModelResult],
    models: Sequence[str],
    first_pairs: Sequence[tuple[str, str]],
) -> list[tuple[str, str]]:
    """All pairs to compare, each once, whatever its order."""
    pairs = _by_members(first_pairs)
    others = []
    for reference in _references(results, models):
        for model in models:
            if model != reference:
                others.append((model, reference))
    for members, pair in _by_members(others).items():
        pairs.setdefault(members, pair)
    return list(pairs.values())


def _references(results: Mapping[str, ModelResult], models: Sequence[str]) -> list[str]:
    """The models and baselines that every model is compared with, each once."""
    references = dict.fromkeys(models[:1])
    # The first baseline is chance, which the number of candidates says.
    baselines = BASELINES[1:]
    for name in ("sft", *baselines):
        if name in results:
            references[name] = None
    return list(references)


def _by_members(pairs: Iterable[tuple[str, str]]) -> dict[frozenset[str], tuple[str, str]]:
    """Index pairs by their two members, whatever their order; the last of equals counts."""
    by_members = {}
    for pair in pairs:
        members = frozenset(pair)
        by_members[members] = pair
    return by_members


def beside_comparisons(  # noqa: PLR0913
    results: Mapping[str, ModelResult],
    models: Sequence[str],
    kind: str,
    resamples: int,
    seed: int,
    first_pairs: Sequence[tuple[str, str]] = (),
) -> list[PairedComparison]:
    """Compare rankings beside those of lists, by NDCG@10; none where some row has fewer than 10.

    Args:
        results: Of these rankings, by name.
        models: As of `paired_comparisons`, and so are the others.
        kind: What is ranked, as in `EvaluationData`.
        resamples: Of users.
        seed: Of the bootstrap.
        first_pairs: Pairs of models.
    """
    metric = BESIDE_METRICS[-1]
    if not all(result.has_cutoff(metric) for result in results.values()):
        return []
    comparisons = paired_comparisons(results, models, resamples, seed, first_pairs, metric)
    for comparison in comparisons:
        split = results[comparison["a"]].rows.split
        comparison["metric"] = f"{split}_{kind}_{metric}"
    return comparisons


def _compare(  # noqa: PLR0913
    a: str,
    b: str,
    results: Mapping[str, ModelResult],
    resamples: int,
    seed: int,
    metric: str,
) -> PairedComparison:
    result_a = results[a]
    result_b = results[b]
    rows = result_a.rows
    difference, low, high, p = paired_difference(
        result_a.row_values(metric),
        result_b.row_values(metric),
        rows.users,
        resamples,
        seed,
    )
    # A lower rank is a better one.
    rank_gain = result_b.mean_rank - result_a.mean_rank
    num_won = int((rank_gain > 0).sum())
    num_lost = int((rank_gain < 0).sum())
    return {
        "a": a,
        "b": b,
        "metric": f"{rows.split}_{metric}",
        "difference": difference,
        "low": low,
        "high": high,
        "p": p,
        "p_holm": None,
        "won": num_won,
        "lost": num_lost,
    }
