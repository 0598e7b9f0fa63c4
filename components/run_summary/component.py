"""KFP component: the summary of a run, however it ended."""

from kfp import dsl

from dynamicpo_components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def summarize_run(
    status: dsl.PipelineTaskFinalStatus,
    summary: dsl.Output[dsl.Artifact],
    logs: dsl.Output[dsl.Markdown],
    run_id: str = "",
):
    """Summarize a run: its end and that of each pod, the models' metrics, the last log lines.

    Runs as the exit handler, on a cluster.

    Args:
        status: State and error of the run, from KFP.
        summary: Folder with summary.json: state, error, images, every model's metrics, and each
            pod's node, phase, reason and exit code.
        logs: The last lines of every pod's log, those of failed ones first.
        run_id: The run's id.
    """
    from pathlib import Path

    from dynamicpo.runs.cluster.run_summary import RunStatus
    from dynamicpo.runs.cluster.run_summary import summarize_run as run

    end = RunStatus(state=status.state, error_message=status.error_message or "")
    run(run_id, end, Path(summary.path), Path(logs.path), summary_uri=summary.uri)
