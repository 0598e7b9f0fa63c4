"""Drift monitoring: a current window of rows against the training rows of a reference, with Evidently.

Distances, not p-values: with enough rows any difference is significant, and the verdict would depend on their number.
"""

import logging
import re
import warnings
from collections import Counter
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from dynamicpo.core import random_keys
from dynamicpo.core.config import DriftConfig
from dynamicpo.core.errors import DataError
from dynamicpo.core.records.manifest import Manifest, config_dict, input_fingerprint, write_json
from dynamicpo.core.records.outputs import finished, stage_output
from dynamicpo.core.records.rows import read_items, read_rows
from dynamicpo.reports.pages.drift import DriftColumn, DriftReport, drift_page

log = logging.getLogger(__name__)

COLUMNS = {
    "history_length": "items in the row's history",
    "user_activity": "the user's rows in the window for each day on which the user has any",
    "popularity_bucket": "the target's place among the reference's items, by training popularity",
    "category": "the target's category; all but the reference's 20 most frequent are one",
    "unseen_share": "share of the history and the target that the reference's training rows never show",
    "chosen_score": "the model's log-probability of the target, nats",
}
_TEXTS = ("popularity_bucket", "category")
_METHODS = {
    "wasserstein": "Wasserstein distance, divided by the reference's standard deviation",
    "jensenshannon": "Jensen-Shannon distance",
}
_BUCKETS = {0.01: "top 1 %", 0.05: "top 5 %", 0.2: "top 20 %", 0.5: "top 50 %", 1.0: "others"}
_CATEGORIES = 20
_DAY_SECONDS = 86400
_UUID = re.compile(
    r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}|(?<=metric_)[0-9a-f]{32}"
)


def monitor_drift(
    reference: Path, current: Path, output: Path, config: DriftConfig, model: Path | None = None
) -> Manifest:
    """Compare `config.split` of the current rows with the reference's training split.

    Args:
        reference: Preferences folder that a model was trained on.
        current: Preferences folder of now; may be the same.
        output: Folder to make: `drift.json`, `report.html`.
        config: Split, thresholds, rows and seed.
        model: Model folder; its score of the chosen item is then a column as well.

    Returns:
        The manifest; `counts` holds `drifted`, `drifted_share` and each column's distance.

    Raises:
        DataError: An empty window, or input that can't be used.
    """
    inputs = {"reference": input_fingerprint(reference), "current": input_fingerprint(current)}
    if model is not None:
        inputs["model"] = input_fingerprint(model)
    manifest = Manifest("monitor_drift", config_dict(config), inputs)
    if (existing := finished(output, manifest)) is not None:
        return existing
    windows = {
        "reference": _window(reference, "train", config),
        "current": _window(current, config.split, config),
    }
    trained = read_rows(reference, "train")
    known = {
        *trained["target"].to_pylist(),
        *trained["history"].combine_chunks().flatten().to_pylist(),
    }
    with stage_output(output, manifest) as folder:
        columns = {name: _columns(window, known) for name, window in windows.items()}
        columns = _bucketed(columns, windows["reference"].items)
        if model is not None:
            for name, window in windows.items():
                columns[name]["chosen_score"] = _chosen_scores(model, window, name)
        found, page = _compare(columns["reference"], columns["current"], config)
        write_json(folder / "drift.json", found)
        (folder / "report.html").write_text(_with_verdict(page, found), encoding="utf-8")
        manifest.counts = _counts(found)
        manifest.extra = {"rule": found["rule"]}
    log.info("%s: %s", output, found["verdict"])
    return manifest


class _Window(NamedTuple):
    """Rows chosen by key, the activity of their users in the whole window, and the items."""

    rows: pa.Table
    activity: "pd.Series[float]"
    items: pd.DataFrame


def _window(folder: Path, split: str, config: DriftConfig) -> _Window:
    rows = read_rows(folder, split)
    if not len(rows):
        raise DataError(
            f"{folder / split}: a window must hold at least one row, got none. Choose another split."
        )
    table = rows.select(["user_id", "timestamp"]).to_pandas()
    table["day"] = table["timestamp"] // _DAY_SECONDS
    users = table.groupby("user_id")["day"].agg(["size", "nunique"])
    activity = table["user_id"].map(users["size"] / users["nunique"].clip(lower=1)).astype(float)
    order = random_keys.random_order(config.seed, f"drift/{split}", rows["example_id"].to_pylist())
    chosen = np.sort(order[: config.rows or len(order)])
    return _Window(
        rows.take(pa.array(chosen)),
        activity.iloc[chosen].reset_index(drop=True),
        read_items(folder),
    )


def _columns(window: _Window, known: Set[str]) -> pd.DataFrame:
    """What is compared, one row each; the bucket's column still holds the target. `known`: the items of training."""
    table = window.rows.select(["history", "target"]).to_pandas()
    category = dict(zip(window.items["item_id"], window.items["category"].fillna(""), strict=True))
    shown = [
        [*history, target]
        for history, target in zip(table["history"], table["target"], strict=True)
    ]
    return pd.DataFrame(
        {
            "history_length": table["history"].map(len).astype(float),
            "user_activity": window.activity,
            "popularity_bucket": table["target"],
            "category": [_plain(category.get(name, "")) for name in table["target"]],
            "unseen_share": [
                float(np.mean([name not in known for name in names])) for names in shown
            ],
        }
    )


def _plain(text: str) -> str:
    """A category that no page takes for markup."""
    return text.replace("<", "‹").replace(">", "›") or "none"


def _bucketed(columns: Mapping[str, pd.DataFrame], items: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The columns with a bucket in place of each target, and rare categories as one: both as the reference has them."""
    place = items["popularity"].rank(method="min", ascending=False) / max(len(items), 1)
    shares, names = [*_BUCKETS], [*_BUCKETS.values(), "unseen"]
    number = np.where(items["popularity"] > 0, np.searchsorted(shares, place), len(shares))
    bucket = {item: names[code] for item, code in zip(items["item_id"], number, strict=True)}
    counts = Counter(columns["reference"]["category"].tolist())
    kept = sorted(counts, key=lambda name: (-counts[name], name))[:_CATEGORIES]
    tables = {
        window: table.assign(
            popularity_bucket=[bucket.get(item, "unseen") for item in table["popularity_bucket"]],
            category=table["category"].where(table["category"].isin(kept), "other"),
        )
        for window, table in columns.items()
    }
    if all((table["category"] == "none").all() for table in tables.values()):
        return {window: table.drop(columns="category") for window, table in tables.items()}
    return tables


def _chosen_scores(folder: Path, window: _Window, name: str) -> NDArray[np.float64]:
    """The model's log-probability of each row's target; NaN where the model knows the target or the history not at all.

    History items that the model does not know are left out: new items are what drift is about.
    """
    from dynamicpo.models.checkpoints import load_model
    from dynamicpo.prompts.encoding import Prompts
    from dynamicpo.scoring.shared_prefix import score_rows

    loaded = load_model(folder)
    prompts = Prompts(loaded.tokenizer, window.items, loaded.settings)
    known = {
        *(loaded.base.items if loaded.settings.item_text == "token" else window.items["item_id"])
    }
    scores, places, prepared = np.full(len(window.rows), np.nan), [], []
    columns = (
        window.rows[column].to_pylist()
        for column in ("example_id", "history", "target", "candidates")
    )
    for place, (example_id, history, target, candidates) in enumerate(zip(*columns, strict=True)):
        kept = [item for item in history if item in known]
        if kept and target in known:
            places.append(place)
            prepared.append(
                prompts.row(
                    example_id, kept, [target], [item for item in candidates if item in known]
                )
            )
    if prepared:
        with loaded.execution_context():
            scores[places] = score_rows(loaded.model, prepared, label=f"scoring the {name} window")[
                :, 0
            ].numpy()
    if not np.isfinite(scores).any():
        raise DataError(
            f"{folder}: must score at least one row of the {name} window, but it has a usable score for none. "
            "Give the model that was trained on the reference."
        )
    return scores


def _compare(
    reference: pd.DataFrame, current: pd.DataFrame, config: DriftConfig
) -> tuple[dict[str, Any], str]:
    """What is found, as `drift.json` has it, and Evidently's page."""
    methods = {str(name): _method(str(name), column) for name, column in reference.items()}
    distances, page = _evidently(reference, current, methods, config)
    columns = {
        name: {
            "distance": distances[name],
            "drifted": distances[name] >= config.threshold,
            "method": _METHODS[methods[name]],
            "meaning": COLUMNS[name],
        }
        for name in methods
    }
    number = sum(bool(column["drifted"]) for column in columns.values())
    share = number / len(columns)
    drifted = number > 0 and share >= config.drift_share
    rule = (
        f"Drifted when at least {config.drift_share:.0%} of the columns, and at least one, have drifted; "
        f"a column has drifted when its distance is at least {config.threshold:g}."
    )
    return {
        "drifted": drifted,
        "verdict": f"{'Drifted' if drifted else 'Not drifted'}: {number} of {len(columns)} columns have drifted.",
        "rule": rule,
        "drifted_share": share,
        "columns": columns,
        "rows": {"reference": len(reference), "current": len(current)},
        "rows_without_score": {
            name: int(table["chosen_score"].isna().sum()) if "chosen_score" in table else 0
            for name, table in (("reference", reference), ("current", current))
        },
    }, page


def _method(name: str, reference: "pd.Series[Any]") -> str:
    """The distance of a column; a spread of 0 can't be divided by, and unseen items are 0 in training by definition."""
    if name in _TEXTS or name == "unseen_share" or reference.nunique() < 2:
        return "jensenshannon"
    return "wasserstein"


def _evidently(
    reference: pd.DataFrame, current: pd.DataFrame, methods: Mapping[str, str], config: DriftConfig
) -> tuple[dict[str, float], str]:
    """Each column's distance, and the page, by a library that takes seconds to import."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # of columns that do not vary
        from evidently import DataDefinition, Dataset, Report
        from evidently.presets import DataDriftPreset

        texts = [name for name in methods if name in _TEXTS]
        kinds = DataDefinition(
            numerical_columns=[name for name in methods if name not in texts],
            categorical_columns=texts,
        )
        preset = DataDriftPreset(
            columns=[*methods],
            per_column_method=dict(methods),
            threshold=config.threshold,
            drift_share=config.drift_share,
        )
        windows = (
            Dataset.from_pandas(table, data_definition=kinds) for table in (current, reference)
        )
        snapshot = Report([preset], include_tests=False).run(*windows)
        metrics = snapshot.dict()["metrics"]
        page = snapshot.get_html_str(as_iframe=False)
    found = {
        metric["config"]["column"]: metric["value"]
        for metric in metrics
        if "column" in metric["config"]
    }
    # Evidently adds up over a set of texts, whose order, and with it the last digit, changes from process to process
    return {name: float(f"{found[name]:.12g}") for name in methods}, page


def _counts(found: Mapping[str, Any]) -> dict[str, Any]:
    counts = {"drifted": found["drifted"], "drifted_share": found["drifted_share"]}
    counts |= {f"{window}_rows": number for window, number in found["rows"].items()}
    return counts | {
        f"{name}_distance": column["distance"] for name, column in found["columns"].items()
    }


def _with_verdict(page: str, found: Mapping[str, Any]) -> str:
    """Evidently's page with the verdict and the rule on top, free of what differs between runs."""
    columns = [
        DriftColumn(
            name=name,
            distance=column["distance"],
            drifted=column["drifted"],
            method=column["method"],
            meaning=column["meaning"],
        )
        for name, column in found["columns"].items()
    ]
    report = DriftReport(
        verdict=found["verdict"],
        rule=found["rule"],
        reference_rows=found["rows"]["reference"],
        current_rows=found["rows"]["current"],
        columns=columns,
    )
    return drift_page(report, _repeatable(page))


def _repeatable(page: str) -> str:
    """Evidently's page without random ids and without its only link to another host."""
    ids: dict[str, str] = {}

    def counted_id(match: re.Match[str]) -> str:
        return ids.setdefault(match[0], f"evidently{len(ids)}")

    page = _UUID.sub(counted_id, page)
    return page.replace('href="https://plotly.com/"', 'href="#"')
