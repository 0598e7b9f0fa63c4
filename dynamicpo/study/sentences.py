"""A study's verdict in words."""

import math
from collections.abc import Sequence

from dynamicpo.core.config import StudyConfig
from dynamicpo.metrics.intervals import detectable_difference
from dynamicpo.reports.number_format import (
    format_interval,
    format_number,
    format_p_value,
    format_signed,
)
from dynamicpo.study.contrasts import Cells, Contrast
from dynamicpo.study.kinds import (
    ABLATIONS_OF_TREATMENT,
    LOSS_LABELS,
    PLAIN,
    VARIANT_LABELS,
    kind_at,
)
from dynamicpo.study.measurements import mean_hit_ratio
from dynamicpo.study.verdict import Study, Verdict, is_significant, mean_loss_share

_OUTCOME_CLAUSES = {
    "prevented": ", and DynamicPO prevented it",
    "softened": ", and DynamicPO softened it without preventing it",
    "not prevented": ", and DynamicPO did not prevent it",
    "": "; DynamicPO was not tried",
}


def verdict_in_words(study: Study) -> list[str]:
    """The verdict in one sentence, then the numbers behind it."""
    paragraphs = [verdict_sentence(study.verdicts)]
    for verdict in study.verdicts:
        paragraphs += evidence(verdict, study)
    return paragraphs


def verdict_sentence(verdicts: Sequence[Verdict]) -> str:
    """One sentence on which objectives collapsed, and on what DynamicPO did to it."""
    if not verdicts:
        return "No objective was trained at two numbers of negatives, so there is nothing to judge."
    clauses = [_clause(verdict) for verdict in verdicts]
    return "; ".join(clauses) + "."


def _clause(verdict: Verdict) -> str:
    name = LOSS_LABELS[verdict.objective]
    if verdict.fall.p is None:
        return f"{name} can't be judged, for all rows are of one user"
    if not verdict.collapsed:
        return f"{name} did not collapse with more negatives"
    return f"{name} collapsed with more negatives{_OUTCOME_CLAUSES[verdict.outcome]}"


def evidence(verdict: Verdict, study: Study) -> list[str]:
    """The numbers behind the verdict on one objective."""
    sentences = [_change_sentence(verdict, study)]
    detectable = detectable_difference(verdict.fall.low, verdict.fall.high)
    # It is 0 where both rank all rows alike, and infinite for one user: neither says anything.
    if not verdict.collapsed and 0 < detectable < math.inf:
        sentences.append(
            f"These users and seeds would have shown a change of {format_number(detectable)} with "
            "a probability of 80 %, before Holm's correction."
        )
    if verdict.gain is not None:
        treated = verdict.gain.a
        sentences.append(
            f"With DynamicPO it was {_hits(study.cells[treated])} at K = {treated.num_negatives}, "
            f"{numbers(verdict.gain)} against plain {LOSS_LABELS[verdict.objective]}."
        )
    if verdict.change_with_dynamicpo is not None:
        sentences.append(
            f"From K = {verdict.fall.b.num_negatives} on, DynamicPO itself changed by "
            f"{numbers(verdict.change_with_dynamicpo)}."
        )
    ablations = _ablation_results(verdict, study)
    if ablations:
        sentences.append(f"Of its halves, {' and '.join(ablations)}.")
    return sentences


def _change_sentence(verdict: Verdict, study: Study) -> str:
    """The change in HitRatio@1, and that of the loss beside it."""
    fall = verdict.fall
    after = study.cells[fall.a]
    before = study.cells[fall.b]
    change = _direction(fall.difference)
    # Without a collapse the largest of several falls is shown, which is easily misread as typical.
    if fall.difference < 0 and not verdict.collapsed:
        change += " at most"
    from_where = f"from {_hits(before)} at K = {fall.b.num_negatives}"
    to_where = f"to {_hits(after)} at K = {fall.a.num_negatives}"
    loss_after = format_number(mean_loss_share(after))
    loss_before = format_number(mean_loss_share(before))
    name = LOSS_LABELS[verdict.objective]
    return (
        f"{name}: HitRatio@1 {change} {from_where} {to_where} ({numbers(fall)}), "
        f"while the loss ended at {loss_after} of its start and not {loss_before}."
    )


def _direction(difference: float) -> str:
    if difference < 0:
        return "fell"
    return "rose" if difference > 0 else "stayed equal"


def _ablation_results(verdict: Verdict, study: Study) -> list[str]:
    """HitRatio@1 of each half of DynamicPO, at the number of negatives that is judged."""
    # The gain is that at the number of negatives which was judged, the last one without a fall.
    judged = verdict.gain.a if verdict.gain else verdict.fall.a
    plain = kind_at(verdict.objective, PLAIN, judged.num_negatives)
    by_variant = {}
    for entry in study.contrasts:
        if entry.b == plain and entry.a.num_negatives == judged.num_negatives:
            by_variant[entry.a.variant] = entry
    results = []
    for variant in ABLATIONS_OF_TREATMENT:
        if variant in by_variant:
            entry = by_variant[variant]
            name = VARIANT_LABELS[variant]
            hits = _hits(study.cells[entry.a])
            results.append(f"{name} reached {hits} ({numbers(entry)})")
    return results


def numbers(entry: Contrast) -> str:
    """`−.076 [−.090, −.061], p < .001`."""
    difference = format_signed(entry.difference)
    if entry.low is None or entry.high is None or entry.p_holm is None:
        return f"{difference}, interval not available"
    bounds = format_interval(entry.low, entry.high)
    p = format_p_value(entry.p_holm)
    # Small ones come with a sign of their own: "< .001".
    relation = p if p.startswith("<") else f"= {p}"
    return f"{difference} {bounds}, p {relation}"


def method_in_words(config: StudyConfig, num_comparisons: int) -> str:
    """The test that was used, and what counts as a collapse and as its prevention."""
    min_drop = format_number(config.min_drop)
    level = format_number(config.level)
    return (
        "Two kinds of cells are compared on the same rows, seed by seed: a t test of the mean "
        "difference in HitRatio@1, whose variance is that over users and that over seeds. p is "
        f"corrected by Holm for all {num_comparisons} comparisons of this page. An objective has "
        "collapsed where HitRatio@1 at a larger K is lower than at a smaller one (by at least "
        f"{min_drop}, p < {level}) although the final loss, as a share of the loss before "
        "training, is lower. DynamicPO prevents it if it ranks clearly "
        "better at that K and has no such fall itself."
    )


def contrast_conclusion(entry: Contrast, config: StudyConfig) -> str:
    """The better one of the two kinds, in words."""
    if entry.p_holm is None:
        return "interval not available"
    if not is_significant(entry, config):
        return "no clear difference"
    return "a is better" if entry.difference > 0 else "b is better"


def _hits(cells: Cells) -> str:
    return format_number(mean_hit_ratio(cells))
