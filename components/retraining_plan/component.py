"""KFP component: whether retraining starts, on which window, and from which weights."""

from typing import NamedTuple

from kfp import dsl

from dynamicpo_components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def plan_retraining(
    decision: dsl.Output[dsl.Markdown],
    interactions: str = "",
    items: str = "",
    data: dict = {},  # noqa: B006
    # Written by dynamicpo_pipelines.signatures
    settings: dict = {},  # noqa: B006
    # to here.
) -> NamedTuple(
    "Outputs",
    [
        ("starts", bool),
        ("why", str),
        ("plan", dict),
        ("data", dict),
        ("fingerprint", str),
        ("start_from", str),
    ],
):
    """Find the champion, list the data, and decide whether anything starts.

    All later tasks of the run go by its outputs. A missing champion is one of them: the first run
    works. A window that was answered already starts nothing; neither does what goes beyond a limit.

    Args:
        decision: The decision in words.
        interactions: File of interactions, as of data preparation.
        items: File of items, as of data preparation.
        data: Settings of data preparation, without the window's dates.
        settings: Other settings by name; those above win.

    Returns:
        starts: Whether the window is prepared and checked.
        why: The same in words.
        plan: The champion, the window, the mode, for later tasks.
        data: Settings of data preparation with the window's dates.
        fingerprint: A name for the content of the data.
        start_from: URI of the model that SFT starts from; empty for the backbone.
    """
    import tempfile
    from pathlib import Path

    from dynamicpo.core.config_retraining import RetrainConfig
    from dynamicpo.promotion.retraining_plan import decide_retraining as run
    from dynamicpo.promotion.retraining_plan import plan_of
    from dynamicpo.runs.component_artifacts import config_of, copy_file

    with tempfile.TemporaryDirectory(prefix="dynamicpo-") as scratch:
        folder = Path(scratch) / "decision"
        manifest = run([interactions, items], folder, config_of(RetrainConfig, settings))
        copy_file(folder / "decision.md", decision)
    plan = plan_of(manifest.extra["decision"])
    cuts = {**data, **plan.window.as_settings()}
    return plan.starts, plan.why, plan.to_json(), cuts, plan.data, plan.start_from
