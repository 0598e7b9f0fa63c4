"""A study's verdict in words."""

from collections.abc import Sequence

from dynamicpo.core.config import StudyConfig
from dynamicpo.reports.charts.numbers import interval, number
from dynamicpo.reports.pages.tables import p_value, signed
from dynamicpo.study.grid import kind_at
from dynamicpo.study.verdict import LOSSES, VARIANTS, Cells, Contrast, Study, Verdict, is_clear


def verdict_in_words(study: Study) -> list[str]:
    """Whether collapse occurred and whether DynamicPO prevented it; then the numbers behind it."""
    said = [sentence for verdict in study.verdicts for sentence in sentences(verdict, study)]
    return [headline(study.verdicts), *said]


def headline(verdicts: Sequence[Verdict]) -> str:
    """Whether collapse occurred, and whether DynamicPO prevented it, in one sentence."""
    if not verdicts:
        return "No objective was trained at two numbers of negatives, so there is nothing to judge."
    parts = [_short(verdict) for verdict in verdicts]
    return "; ".join(parts) + "."


def _short(verdict: Verdict) -> str:
    name = LOSSES[verdict.objective]
    if verdict.fall.p is None:
        return f"{name} can't be judged, for all rows are of one user"
    if not verdict.collapsed:
        return f"{name} did not collapse with more negatives"
    ends = {
        "prevented": ", and DynamicPO prevented it",
        "softened": ", and DynamicPO softened it without preventing it",
        "not prevented": ", and DynamicPO did not prevent it",
        "": "; DynamicPO was not tried",
    }
    return f"{name} collapsed with more negatives{ends[verdict.outcome]}"


def sentences(verdict: Verdict, study: Study) -> list[str]:
    """The numbers behind the verdict on one objective."""
    name, fall, cells = LOSSES[verdict.objective], verdict.fall, study.cells
    after, before = cells[fall.a], cells[fall.b]
    losses = [number(float(cell.figures["loss_share"].mean())) for cell in (after, before)]
    places = f"from {_hits(before)} at K = {fall.b[2]} to {_hits(after)} at K = {fall.a[2]} ({numbers(fall)})"
    way = "fell" if fall.difference < 0 else "rose" if fall.difference > 0 else "stayed equal"
    which = "" if verdict.collapsed or fall.difference >= 0 else "at most "
    ends = f"while the loss ended at {losses[0]} of its start and not {losses[1]}"
    said = [f"{name}: HitRatio@1 {way} {which}{places}, {ends}."]
    if verdict.gain is not None:
        treated = f"{_hits(cells[verdict.gain.a])} at K = {verdict.gain.a[2]}"
        said.append(
            f"With DynamicPO it was {treated}, {numbers(verdict.gain)} against plain {name}."
        )
    if verdict.own is not None:
        said.append(f"From K = {fall.b[2]} on, DynamicPO itself changed by {numbers(verdict.own)}.")
    return said + _halves(verdict, study)


def _halves(verdict: Verdict, study: Study) -> list[str]:
    """What one half of DynamicPO does at the same place."""
    place = verdict.gain.a[2] if verdict.gain else verdict.fall.a[2]
    plain = kind_at(verdict.objective, "plain", place)
    found = {
        entry.a[1]: entry for entry in study.contrasts if entry.b == plain and entry.a[2] == place
    }
    parts = [
        f"{VARIANTS[variant]} reached {_hits(study.cells[found[variant].a])} ({numbers(found[variant])})"
        for variant in ("selection", "beta")
        if variant in found
    ]
    return [f"Of its halves, {' and '.join(parts)}."] if parts else []


def numbers(entry: Contrast) -> str:
    """`−.076 [−.090, −.061], p < .001`."""
    if entry.low is None or entry.high is None or entry.p_holm is None:
        return f"{signed(entry.difference)}, interval not available"
    p = p_value(entry.p_holm)
    return f"{signed(entry.difference)} {interval(entry.low, entry.high)}, p {p if p.startswith('<') else f'= {p}'}"


def test_in_words(config: StudyConfig, looks: int) -> str:
    """How it was judged."""
    return (
        "Two kinds of cells are compared on the same rows, seed by seed: a t test of the mean difference in "
        "HitRatio@1, whose variance is that over users and that over seeds. p is corrected by Holm for all "
        f"{looks} comparisons of this page. An objective has collapsed where HitRatio@1 at a larger K is lower than at "
        f"a smaller one (by at least {number(config.min_drop)}, p < {number(config.level)}) although the final loss, "
        "as a share of the loss before training, is lower. DynamicPO prevents it if it ranks clearly better at that "
        "K and has no such fall itself."
    )


def reading(entry: Contrast, config: StudyConfig) -> str:
    """Which of the two is better."""
    if entry.p_holm is None:
        return "interval not available"
    if not is_clear(entry, config):
        return "no clear difference"
    return "a is better" if entry.difference > 0 else "b is better"


def _hits(cells: Cells) -> str:
    return number(float(cells.hits.mean()))
