"""KFP component: interactions to examples."""

from typing import NamedTuple, Optional

from kfp import dsl

from dynamicpo_components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def prepare_data(
    examples: dsl.Output[dsl.Dataset],
    metrics: dsl.Output[dsl.Metrics],
    report: dsl.Output[dsl.HTML],
    interactions: str = "",
    items: str = "",
    fingerprint: str = "",
    # Written by dynamicpo_pipelines.signatures
    source: Optional[str] = None,
    k_core: Optional[int] = None,
    settings: dict = {},  # noqa: B006
    # to here.
) -> NamedTuple("Outputs", [("examples_uri", str)]):
    """Make examples, a history of items and the next one, from interactions.

    Checks the tables, drops duplicates and rare users and items, splits by time, and cuts sliding
    histories. The same input and parameters give the same bytes.

    Args:
        examples: Folder of the examples: {train,validation,test}/part-*.parquet, items.parquet,
            manifest.json.
        metrics: Numbers of rows read, selected and dropped, by reason.
        report: Quality of the data: numbers, times, titles, each beside its limit.
        interactions: File of interactions: user_id, item_id, timestamp, optional rating; CSV, TSV,
            JSONL or Parquet, local or in an object store. For 'movielens' a GroupLens zip or folder
            (empty: the copy in the recbole wheel); for 'published' a file or folder of rows.
        items: File of items: item_id, title, optional category. Only for 'table'.
        fingerprint: A name for the content of the data, so that KFP's cache does not take changed
            files for the old ones (empty: their address is name enough).
        source: What the input is: two tables, a data set's own files, or published rows [table,
            movielens, hetrec-lastfm, lastfm-1k, lfm-1b, lfm-2b, steam, goodreads, amazon-2023,
            published].
        k_core: Drop users and items with fewer interactions, until none is left (1: keep all).
        settings: Other settings by name; those above win.

    Returns:
        examples_uri: Where the examples lie.
    """
    from pathlib import Path

    from dynamicpo.core.config import DataConfig
    from dynamicpo.data.prepare import prepare_data as run
    from dynamicpo.runs.component_artifacts import config_of, copy_report, log_stage_metrics

    manifest = run(
        interactions,
        items,
        Path(examples.path),
        config_of(DataConfig, settings, source=source, k_core=k_core),
    )
    log_stage_metrics(metrics, manifest)
    copy_report(Path(examples.path), report)
    return (examples.uri,)
