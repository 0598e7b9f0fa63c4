"""A study's page: its tables and curves."""

from collections.abc import Mapping, Sequence

from dynamicpo.core.arrays import FloatArray
from dynamicpo.core.choices import VARIANTS
from dynamicpo.core.json_values import JsonValue
from dynamicpo.reports.number_format import (
    format_interval,
    format_number,
    format_p_value,
    format_signed,
)
from dynamicpo.reports.pages.metric_names import value_or_nan
from dynamicpo.reports.pages.study import StudyReport
from dynamicpo.reports.pages.tables import ReportTable, TableCell
from dynamicpo.reports.training_log import BOUNDARY_GRADIENT, RELATIVE_BOUNDARY_GRADIENT
from dynamicpo.study import sentences
from dynamicpo.study.contrasts import Cells, Contrast
from dynamicpo.study.kinds import (
    LOSS_LABELS,
    SFT,
    VARIANT_LABELS,
    Kind,
    kind_at,
    kind_name,
    numbers_of_negatives,
    objective_name,
)
from dynamicpo.study.measurements import (
    HIT_RATIO,
    NOT_MEASURED,
    mean_hit_ratio,
    mean_over_seeds,
    measurements,
)
from dynamicpo.study.verdict import Study, Verdict, is_significant, mean_loss_share

# Shown as curves, in this order.
MEASURES = (HIT_RATIO, "final_loss", RELATIVE_BOUNDARY_GRADIENT, "boundary_fraction")
_CELL_COLUMNS = {
    HIT_RATIO: "HitRatio@1",
    "final_loss": "final loss",
    "loss_share": "loss, share of start",
    BOUNDARY_GRADIENT: "boundary gradient",
    RELATIVE_BOUNDARY_GRADIENT: "boundary gradient left",
    "boundary_fraction": "boundary items",
    "violation_share": "rows with a violation",
}
_VERDICT_HEADS = (
    "objective",
    "from K",
    "to K",
    "HitRatio@1",
    "change",
    "p (Holm)",
    "loss, share of start",
    "verdict",
    "DynamicPO there",
    "DynamicPO",
)
_CONTRAST_HEADS = ("a", "b", "a − b", "p", "p (Holm)", "conclusion")
_OUTCOME_WORDS = {
    "prevented": "prevents it",
    "softened": "softens it",
    "not prevented": "does not prevent it",
    "": "–",
}

Point = tuple[float, float, float, float]  # K, mean, low, high


def make_report(
    study: Study,
    baselines: Mapping[str, float],
    settings: Mapping[str, JsonValue],
    warnings: Sequence[str] = (),
) -> StudyReport:
    """The content of the page.

    Args:
        study: The measurements and verdicts.
        baselines: HitRatio@1 of the baselines.
        settings: Protocol, settings, seeds.
        warnings: Of the evaluations.
    """
    references = {LOSS_LABELS[SFT.loss]: mean_hit_ratio(study.cells[SFT])}
    # A model below popularity has learnt nothing of the user.
    if "popularity" in baselines:
        references["popularity"] = baselines["popularity"]
    num_comparisons = len(study.contrasts)
    curves = {LOSS_LABELS[loss]: _curves(study, loss) for loss in study.objectives}
    return StudyReport(
        headline=sentences.verdict_in_words(study),
        test=sentences.method_in_words(study.config, num_comparisons),
        verdicts=_verdict_table(study),
        curves=curves,
        references=references,
        cells=_cell_table(study),
        contrasts=_contrast_table(study),
        details={**settings, "baselines": baselines},
        warnings=[*warnings, *_seed_warnings(study)],
    )


def _seed_warnings(study: Study) -> list[str]:
    if len(study.seeds) > 1:
        return []
    return ["One seed only: intervals and p know nothing of how training varies."]


def _curves(study: Study, loss: str) -> dict[str, dict[str, list[Point]]]:
    """The points of one objective, by measure and variant; bounds are those over seeds."""
    curves = {}
    for measure in MEASURES:
        curves[measure] = _curves_of_measure(study, loss, measure)
    return curves


def _curves_of_measure(study: Study, loss: str, measure: str) -> dict[str, list[Point]]:
    numbers = numbers_of_negatives(study.cells)
    curves = {}
    for variant in VARIANTS:
        # A cell at K = 1 stands for all objectives, and alone makes no curve of this one.
        trained = [Kind(loss, variant, number) in study.cells for number in numbers]
        if any(trained):
            kinds = [kind_at(loss, variant, number) for number in numbers]
            label = VARIANT_LABELS[variant]
            curves[label] = _points(study, kinds, measure)
    return curves


def _points(study: Study, kinds: Sequence[Kind], measure: str) -> list[Point]:
    points = []
    for kind in kinds:
        if kind in study.cells:
            values = measurements(study.cells[kind])[measure]
            points.append((float(kind.num_negatives), *mean_over_seeds(values)))
    return points


def _verdict_table(study: Study) -> ReportTable:
    rows = [_verdict_row(verdict, study) for verdict in study.verdicts]
    return ReportTable(_VERDICT_HEADS, rows, _columns_of(_VERDICT_HEADS, "verdict", "DynamicPO"))


def _verdict_row(verdict: Verdict, study: Study) -> list[TableCell]:
    fall = verdict.fall
    gain = verdict.gain
    before = study.cells[fall.b]
    after = study.cells[fall.a]
    is_prevented = verdict.outcome == "prevented"
    row = [
        TableCell(LOSS_LABELS[verdict.objective]),
        TableCell(str(fall.b.num_negatives)),
        TableCell(str(fall.a.num_negatives)),
    ]
    row += [
        _change_cell(mean_hit_ratio(before), mean_hit_ratio(after)),
        _difference_cell(fall, verdict.collapsed),
        _p_cell(fall.p_holm),
        _change_cell(mean_loss_share(before), mean_loss_share(after)),
    ]
    row += [
        TableCell(_collapse_word(verdict), strong=verdict.collapsed),
        _difference_cell(gain, is_prevented) if gain else TableCell("–"),
        TableCell(_OUTCOME_WORDS[verdict.outcome], strong=is_prevented),
    ]
    return row


def _collapse_word(verdict: Verdict) -> str:
    if verdict.fall.p is None:
        return "interval not available"
    return "collapse" if verdict.collapsed else "no collapse"


def _cell_table(study: Study) -> ReportTable:
    rows = [_cell_row(kind, cells) for kind, cells in study.cells.items()]
    return ReportTable(["", "K", *_CELL_COLUMNS.values()], rows)


def _cell_row(kind: Kind, cells: Cells) -> list[TableCell]:
    num_negatives = str(kind.num_negatives) if kind.num_negatives else "–"
    row = [TableCell(objective_name(kind)), TableCell(num_negatives)]
    values = measurements(cells)
    for name in _CELL_COLUMNS:
        row.append(_average_cell(values.get(name)))
    return row


def _contrast_table(study: Study) -> ReportTable:
    rows = [_contrast_row(entry, study) for entry in study.contrasts]
    text_columns = _columns_of(_CONTRAST_HEADS, "b", "conclusion")
    return ReportTable(_CONTRAST_HEADS, rows, text_columns)


def _contrast_row(entry: Contrast, study: Study) -> list[TableCell]:
    is_clear = is_significant(entry, study.config)
    conclusion = sentences.contrast_conclusion(entry, study.config)
    return [
        TableCell(kind_name(entry.a)),
        TableCell(kind_name(entry.b)),
        _difference_cell(entry, is_clear),
        _p_cell(entry.p),
        _p_cell(entry.p_holm),
        TableCell(conclusion),
    ]


def _columns_of(heads: Sequence[str], *names: str) -> tuple[int, ...]:
    """Positions of the first column, which holds names, and of others that hold words."""
    # Tables align words to the left and numbers to the right.
    return 0, *(heads.index(name) for name in names)


def _difference_cell(entry: Contrast, strong: bool) -> TableCell:
    bounds = format_interval(value_or_nan(entry.low), value_or_nan(entry.high))
    return TableCell(format_signed(entry.difference), bounds, strong)


def _average_cell(values: FloatArray | None) -> TableCell:
    # SFT has no preference training, and so no measures of it.
    average = NOT_MEASURED if values is None else mean_over_seeds(values)
    text = format_number(average.mean)
    bounds = format_interval(average.low, average.high)
    return TableCell(text, bounds)


def _change_cell(before: float, after: float) -> TableCell:
    return TableCell(f"{format_number(before)} → {format_number(after)}")


def _p_cell(p: float | None) -> TableCell:
    return TableCell(format_p_value(value_or_nan(p)))
