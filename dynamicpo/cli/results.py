"""Results of the commands on stages, comparisons and lists, as `--json` prints them.

The result of `run` is `dynamicpo.runs.local.summary.FinishedRun`, that of `audit-candidates`
`dynamicpo.negatives.audit.audit.CandidateAudit`.
"""

from typing import TYPE_CHECKING, NotRequired, TypedDict

from dynamicpo.core.json_values import JsonObject, JsonValue

if TYPE_CHECKING:
    from dynamicpo.reports.pages.comparisons import PairedComparison
    from dynamicpo.runs.run_records import ListedRun

JsonMetrics = dict[str, dict[str, float | None]]
Settings = dict[str, dict[str, JsonValue]]


class StageResult(TypedDict):
    """The result of a stage.

    Attributes:
        output: The folder that it made.
        fingerprint: A name for the folder's content.
        counts: Numbers of rows, or metrics.
    """

    output: str
    fingerprint: str
    counts: dict[str, float]


class EvaluationResult(StageResult):
    """The result of `evaluate`: also each model's metrics."""

    metrics: JsonMetrics


class StudyResult(StageResult):
    """The result of `judge-collapse`: also the verdict, sentence by sentence."""

    sentences: list[str]


class GateOutcome(StageResult):
    """The result of a decision: also its reasons, sentence by sentence."""

    reasons: list[str]


class DriftOutcome(StageResult):
    """The result of `monitor-drift`.

    Attributes:
        status: Drifted, not drifted or too few users.
        verdict: The same in a sentence.
        fails_gate: A gate was asked for, and drift was found or could not be ruled out.
    """

    status: str
    verdict: str
    fails_gate: bool


class ComparisonContent(TypedDict):
    """The content of `comparison.json`.

    Attributes:
        protocol: The protocol that all evaluations share.
        models: The models' names in order.
        run_names: The runs' names in order.
        metrics: Each model's metrics.
        comparisons: Paired comparisons of models.
        differences: Settings in which models differ.
        runs: Settings in which runs differ.
    """

    protocol: JsonObject
    models: list[str]
    run_names: list[str]
    metrics: JsonMetrics
    comparisons: "list[PairedComparison]"
    differences: Settings
    runs: Settings


class ComparisonResult(StageResult, ComparisonContent):
    """The result of `compare`: also its page."""

    report: str


class RunList(TypedDict):
    """The result of `runs`."""

    runs: "list[ListedRun]"


class CompileResult(TypedDict):
    """The result of `compile`: the file."""

    output: str


class SubmitResult(TypedDict):
    """The result of `submit`: the run, and how it ended where that was awaited.

    Attributes:
        run: Its id.
        link: The URL of its page.
        pipeline_version: The name of the version that runs.
        state: How it ended.
        hit_ratio_at_1: HitRatio@1 of each of its models.
        problem: Why there are no figures, in one line.
    """

    run: str
    link: str
    pipeline_version: str
    state: NotRequired[str]
    hit_ratio_at_1: NotRequired[dict[str, float]]
    problem: NotRequired[str]
