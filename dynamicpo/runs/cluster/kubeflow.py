"""A Kubeflow Pipelines installation: its API, with errors that say what to do.

The SDK's own client prints, keeps a namespace in the home folder, does not tell a failed run from a
good one, and waits for ever for a cancelled one; so this calls the API by its generated models.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from dynamicpo.core.errors import ConfigError, RunFailedError

if TYPE_CHECKING:
    from kfp_server_api import ApiException, V2beta1Run

API_TIMEOUT_SECONDS = 60
# Runs that are listed, and among which one is looked up by its name.
NEWEST_RUNS = 100
_MESSAGE_CHARACTERS = 500

Response = TypeVar("Response")


class NoAnswerError(RunFailedError):
    """The installation can't be reached, or answers that it can't serve the request now."""


class Kubeflow:
    """One installation.

    Args:
        host: The URL of its API; the UI's URL does as well.
        token: A bearer token, where the API asks for one.
        namespace: The user's namespace, where each user has one.
    """

    def __init__(self, host: str, token: str = "", namespace: str = "") -> None:
        """Make the clients; no request is sent yet."""
        import kfp_server_api as api

        if not host.startswith(("http://", "https://")):
            raise ConfigError(f"--host: must begin with http:// or https://, got {host!r}.")
        self.host = host.rstrip("/")
        self.namespace = namespace
        configuration = api.Configuration(host=self.host)
        # An installation that does not answer is reported at once, not after urllib3's retries.
        configuration.retries = False
        if token:
            configuration.api_key = {"authorization": token}
            configuration.api_key_prefix = {"authorization": "Bearer"}
        client = api.ApiClient(configuration)
        self._health = api.HealthzServiceApi(client)
        self._uploads = api.PipelineUploadServiceApi(client)
        self._pipelines = api.PipelineServiceApi(client)
        self._experiments = api.ExperimentServiceApi(client)
        self._runs = api.RunServiceApi(client)
        self._recurring_runs = api.RecurringRunServiceApi(client)

    def check(self) -> None:
        """Check that it answers, and has one user or several as the namespace says.

        Raises:
            ConfigError: Not so.
        """
        try:
            health = self._call(self._health.healthz_service_get_healthz)
        except NoAnswerError as error:
            raise ConfigError(str(error)) from error
        if health.multi_user and not self.namespace:
            raise ConfigError(
                f"--namespace: must be given, because {self.host} has a namespace for each user."
            )
        if self.namespace and not health.multi_user:
            raise ConfigError(
                f"--namespace: must not be given, because {self.host} has one user. "
                f"Leave {self.namespace!r} out."
            )

    def pipeline(self, name: str) -> str:
        """The id of a pipeline, which is created if there is none of this name."""
        from kfp_server_api import V2beta1Pipeline

        listed = self._call(
            self._pipelines.pipeline_service_list_pipelines,
            namespace=self.namespace,
            filter=_name_filter(name),
        )
        if listed.pipelines:
            return str(listed.pipelines[0].pipeline_id)
        pipeline = V2beta1Pipeline(name=name, display_name=name, namespace=self.namespace)
        created = self._call(self._pipelines.pipeline_service_create_pipeline, pipeline)
        return str(created.pipeline_id)

    def version(self, pipeline: str, name: str) -> tuple[str, str]:
        """The id and the description of a pipeline's version, empty if there is none."""
        listed = self._call(
            self._pipelines.pipeline_service_list_pipeline_versions,
            pipeline,
            filter=_name_filter(name),
        )
        if not listed.pipeline_versions:
            return "", ""
        version = listed.pipeline_versions[0]
        return str(version.pipeline_version_id), version.description or ""

    def version_name(self, pipeline: str, version: str) -> str:
        """The name of a pipeline's version: `submit` names them by the commit."""
        get_version = self._pipelines.pipeline_service_get_pipeline_version
        return str(self._call(get_version, pipeline, version).display_name or version)

    def upload(self, pipeline: str, name: str, description: str, file: Path) -> str:
        """Add a version to a pipeline. Returns its id."""
        created = self._call(
            self._uploads.upload_pipeline_version,
            str(file),
            name=name,
            pipelineid=pipeline,
            description=description,
        )
        return str(created.pipeline_version_id)

    def experiment(self, name: str) -> str:
        """The id of an experiment, which is created if there is none of this name."""
        from kfp_server_api import V2beta1Experiment

        listed = self._call(
            self._experiments.experiment_service_list_experiments,
            namespace=self.namespace,
            filter=_name_filter(name),
        )
        if listed.experiments:
            return str(listed.experiments[0].experiment_id)
        experiment = V2beta1Experiment(display_name=name, namespace=self.namespace)
        created = self._call(self._experiments.experiment_service_create_experiment, experiment)
        return str(created.experiment_id)

    def start(self, run: "V2beta1Run") -> str:
        """Start a run. Returns its id."""
        return str(self._call(self._runs.run_service_create_run, run).run_id)

    def schedule(self, run: "V2beta1Run", cron: str) -> str:
        """Start a run again and again, one at a time. Returns the id of the recurring run."""
        import kfp_server_api as api

        schedule = api.V2beta1CronSchedule(cron=cron)
        recurring_run = api.V2beta1RecurringRun(
            display_name=run.display_name,
            experiment_id=run.experiment_id,
            pipeline_version_reference=run.pipeline_version_reference,
            runtime_config=run.runtime_config,
            service_account=run.service_account,
            trigger=api.V2beta1Trigger(cron_schedule=schedule),
            max_concurrency="1",
            mode="ENABLE",
            # After an outage the runs that were missed are not made up for, all at once.
            no_catchup=True,
        )
        create = self._recurring_runs.recurring_run_service_create_recurring_run
        return str(self._call(create, recurring_run).recurring_run_id)

    def run(self, run: str) -> "V2beta1Run":
        """A run by its id, with its state."""
        return self._call(self._runs.run_service_get_run, run)

    def newest_runs(self) -> "list[V2beta1Run]":
        """The runs that were started last, newest first."""
        listed = self._call(
            self._runs.run_service_list_runs,
            namespace=self.namespace,
            page_size=NEWEST_RUNS,
            sort_by="created_at desc",
        )
        return list(listed.runs or [])

    def link(self, run: str, recurring: bool = False) -> str:
        """The URL of the page of a run, or of a recurring one."""
        kind = "recurringrun" if recurring else "runs"
        return f"{self.host}/#/{kind}/details/{run}"

    def _call(
        self, function: Callable[..., Response], *arguments: object, **options: object
    ) -> Response:
        """Send a request; a failure becomes an error of one line.

        Raises:
            ConfigError: The API refuses the request.
            NoAnswerError: It does not answer, or not now.
        """
        from kfp_server_api import ApiException
        from urllib3.exceptions import HTTPError

        try:
            return function(*arguments, **options, _request_timeout=API_TIMEOUT_SECONDS)
        except ApiException as error:
            # Generated names are such as `run_service_get_run`.
            operation = function.__name__.partition("_service_")[2] or function.__name__
            raise self._refusal(operation, error) from error
        except (HTTPError, OSError) as error:
            raise NoAnswerError(f"{self.host}: must answer, but {error}. Check --host.") from error

    def _refusal(self, operation: str, error: "ApiException") -> ConfigError | NoAnswerError:
        status = error.status
        detail = _detail(error.body)
        problem = f"{self.host}: {operation}: {status} {error.reason}{detail}"
        if status in (401, 403):
            return ConfigError(f"{problem}. Give a token that may do this (--token-file).")
        # 0: TLS failed; 429: too many requests. These and the server's own failures pass.
        if status in (0, 429) or status >= 500:
            return NoAnswerError(problem)
        return ConfigError(problem)


def _name_filter(name: str) -> str:
    """The API's filter for one display name."""
    predicate = {"operation": "EQUALS", "key": "display_name", "stringValue": name}
    return json.dumps({"predicates": [predicate]})


def _detail(body: str | bytes | None) -> str:
    """The API's explanation of a refusal, where it gives one."""
    try:
        content = json.loads(body or "{}")
        # Which key it is depends on what refuses: the API, its gateway, or a proxy before it.
        message = content.get("message") or content.get("error_message") or content.get("error")
    except (ValueError, AttributeError):  # not JSON, or no object
        return ""
    text = " ".join(str(message or "").split())[:_MESSAGE_CHARACTERS]
    return f": {text}" if text else ""
