"""Drift monitoring: a window of newer rows against what a model was trained and gated on.

A column drifts when its distance reaches a threshold, so that it matters, and exceeds what whole
users give by chance, so that it is there. Of too few users the verdict is that, and not "none".
"""

import logging
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from dynamicpo.core.config import DriftConfig
from dynamicpo.core.errors import DataError
from dynamicpo.core.records.manifest import Manifest, config_dict, input_fingerprint, write_json
from dynamicpo.core.records.outputs import finished, stage_output
from dynamicpo.core.records.version_folders import CARD, is_version, model_of
from dynamicpo.monitoring.check_history import DriftCheck, add_check, read_checks
from dynamicpo.monitoring.columns import (
    DATA_COLUMNS,
    HELD_OUT_WINDOW,
    NO_CATEGORY,
    ROW_COLUMNS,
    SIGNALS,
    USER,
    data_columns,
    row_columns,
)
from dynamicpo.monitoring.evidently_report import compare_columns
from dynamicpo.monitoring.permutations import ColumnSample
from dynamicpo.monitoring.references import (
    DriftReference,
    list_protocol,
    read_reference,
    reference_of_rows,
)
from dynamicpo.monitoring.rollback import ChampionPair, check_rollback, write_rollback
from dynamicpo.monitoring.signals import ListedScores, signals_of, window_scores
from dynamicpo.monitoring.verdicts import DriftResult, judge_columns
from dynamicpo.monitoring.windows import Window, read_held_out, read_window
from dynamicpo.reports.pages.drift import drift_page

log = logging.getLogger(__name__)


class _ComparedFrames(NamedTuple):
    """Frames of the current window: for the training window, and for the held-out window."""

    reference: DriftReference
    data: pd.DataFrame
    rows: pd.DataFrame
    scores: ListedScores | None


def monitor_drift(
    reference: Path,
    current: Path,
    output: Path,
    config: DriftConfig,
    model: Path | None = None,
    pair: ChampionPair | None = None,
) -> Manifest:
    """Compare `config.split` of the current rows with a reference.

    Args:
        reference: Folder of a published version, or preferences folder that a model was trained on.
        current: Preferences folder of now; may be the same.
        output: Folder to make: `drift.json`, `report.html`.
        config: Splits, thresholds, rows, users and seed.
        model: Model folder; its signals are then compared as well. That of a version is in it.
        pair: The champion, which then is the reference, and the one before it: which of the two is
            better on the current rows stands in `rollback.json`, `rollback.md`, `rollback.html`.

    Returns:
        The manifest; `counts` holds `drifted`, `too_few_users` and each column's distance.

    Raises:
        DataError: An empty window, rows of another catalogue, or input that can't be used.
    """
    inputs = {"reference": _fingerprint(reference), "current": input_fingerprint(current)}
    if model is not None:
        inputs["model"] = input_fingerprint(model)
    if pair is not None:
        inputs["previous champion"] = pair.previous.name if pair.previous else ""
    manifest = Manifest("monitor_drift", config_dict(config), inputs)
    if (existing := finished(output, manifest)) is not None:
        return existing
    window = read_window(current, config.split, config)
    checks = read_checks(config.store) if config.store else []
    with stage_output(output, manifest) as folder:
        frames = _frames(reference, current, window, config, model)
        result = judge_columns(_samples(frames), config)
        evidently = compare_columns(result, config)
        check = _check(result, inputs, window)
        page = drift_page(result.report([*checks, check]), evidently)
        write_json(folder / "drift.json", result.to_json())
        (folder / "report.html").write_text(page, encoding="utf-8")
        manifest.counts = result.counts()
        manifest.extra = {"rule": result.rule, "status": result.status}
        if pair is not None:
            rollback = check_rollback(pair, None if model else frames.scores, window, config)
            write_rollback(folder, rollback)
            manifest.extra["rollback"] = rollback.to_json()
    # After the output is there: a check that is in the history has a page.
    if config.store:
        add_check(config.store, check)
    log.info("%s: %s", output, result.verdict)
    return manifest


def _fingerprint(reference: Path) -> str:
    """A name for the content of a reference; that of a version stands in its list of files."""
    if is_version(reference):
        from dynamicpo.core.storage.checksums import sha256

        return sha256(reference / CARD)
    return input_fingerprint(reference)


def _frames(
    reference: Path, current: Path, window: Window, config: DriftConfig, model: Path | None
) -> _ComparedFrames:
    if is_version(reference):
        known = read_reference(reference)
        scorer: Path | None = model or model_of(reference)
    else:
        known = _split_reference(reference, config, model)
        scorer = model
    rows = row_columns(window, known.items.trained)
    _check_catalogue(current, rows)
    scores = None
    has_signals = known.held_out is not None and SIGNALS.keys() <= {*known.held_out}
    if has_signals and scorer is not None:
        _check_lists(current, known)
        scores = window_scores(scorer, window, "current window", config)
        rows = rows.join(signals_of(scores))
    return _ComparedFrames(known, data_columns(window, known.items), rows, scores)


def _split_reference(reference: Path, config: DriftConfig, model: Path | None) -> DriftReference:
    """The references of a preferences folder, with a model's signals where there is one."""
    held_out = read_held_out(reference, config)
    known = reference_of_rows(reference, held_out, config)
    if model is None or held_out is None or known.held_out is None:
        return known
    scores = window_scores(model, held_out, HELD_OUT_WINDOW, config)
    return known._replace(held_out=known.held_out.join(signals_of(scores)))


def _check_catalogue(current: Path, rows: pd.DataFrame) -> None:
    """Refuse rows of other items altogether, of which any window would have drifted."""
    if (rows["unseen_share"] == 1).all():
        raise DataError(
            f"{current}: must have items of the reference, but it shares none with its training "
            "rows. Prepare it with the same catalogue, or choose the reference of this one."
        )


def _check_lists(current: Path, known: DriftReference) -> None:
    """Refuse lists of candidates that are longer, or harder, than those of the reference."""
    lists = list_protocol(current)
    if lists != known.lists:
        raise DataError(
            f"{current}: must have lists of candidates as the reference has them ({known.lists}), "
            f"or a model's signals can't be compared, got {lists}. Sample them with its settings."
        )


def _samples(frames: _ComparedFrames) -> list[ColumnSample]:
    """All columns that both windows have."""
    samples = []
    training = frames.reference.training
    for name in DATA_COLUMNS:
        sample = _sample(name, training, frames.data)
        if not _is_unknown(sample):
            samples.append(sample)
    held_out = frames.reference.held_out
    if held_out is None:
        return samples
    both = {*held_out} & {*frames.rows}
    for name in (*ROW_COLUMNS, *SIGNALS):
        if name in both:
            sample = _sample(name, held_out, frames.rows)
            samples.append(sample)
    return samples


def _sample(name: str, reference: pd.DataFrame, current: pd.DataFrame) -> ColumnSample:
    return ColumnSample(
        name,
        reference=reference[name],
        reference_users=reference[USER],
        current=current[name],
        current_users=current[USER],
    )


def _is_unknown(sample: ColumnSample) -> bool:
    """Tell whether nobody knows a category."""
    if sample.name != "category":
        return False
    values = pd.concat([sample.reference, sample.current])
    return bool((values == NO_CATEGORY).all())


def _check(result: DriftResult, inputs: dict[str, str], window: Window) -> DriftCheck:
    times = window.rows["timestamp"].to_numpy()
    distances = {test.name: test.relative_distance for test in result.columns}
    return DriftCheck(
        window_end=float(times.max()),
        status=result.status,
        reference=inputs["reference"],
        current=inputs["current"],
        distances=distances,
    )
