"""A Kubeflow Pipelines installation: its API, with errors that say what to do.

The SDK's own client prints, keeps a namespace in the home folder, does not tell a failed run from a
good one, and waits for ever for a cancelled one; so this calls the API by its generated models.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from dynamicpo.core.errors import ConfigError, RunFailedError, unknown_name
from dynamicpo.runs.cluster.credentials import Credentials, check_url

if TYPE_CHECKING:
    from kfp_server_api import ApiException, V2beta1Run

API_TIMEOUT_SECONDS = 60
# Runs that are listed, and among which one is looked up by its name.
NEWEST_RUNS = 100
_MESSAGE_CHARACTERS = 500
_NOT_LOGGED_IN = 401
_RUN_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")

Response = TypeVar("Response")


class NoAnswerError(RunFailedError):
    """The installation can't be reached, or answers that it can't serve the request now."""


class _ForeignAnswerError(Exception):
    """An answer that is not the API's, such as the page of a login."""


class Kubeflow:
    """One installation.

    Args:
        host: The URL of its API; the UI's URL does as well.
        credentials: The headers by which it knows its user.
        namespace: The user's namespace, where each user has one.
        ui: The URL that links begin with (default: `host`).
    """

    def __init__(
        self,
        host: str,
        credentials: Credentials | None = None,
        namespace: str = "",
        ui: str = "",
    ) -> None:
        """Make the clients; no request is sent yet.

        Raises:
            ConfigError: A URL can't be used.
        """
        import kfp_server_api as api

        self.host = check_url("--host", host)
        self.ui = check_url("--ui", ui) if ui else self.host
        self.namespace = namespace
        self._credentials = credentials or Credentials()
        configuration = api.Configuration(host=self.host)
        # An installation that does not answer is reported at once, not after urllib3's retries.
        configuration.retries = False
        self._client = api.ApiClient(configuration)
        self._set_headers()
        self._health = api.HealthzServiceApi(self._client)
        self._uploads = api.PipelineUploadServiceApi(self._client)
        self._pipelines = api.PipelineServiceApi(self._client)
        self._experiments = api.ExperimentServiceApi(self._client)
        self._runs = api.RunServiceApi(self._client)
        self._recurring_runs = api.RecurringRunServiceApi(self._client)

    def check(self) -> str:
        """Check that it answers, and has one user or several as the namespace says.

        Returns:
            The name of its version, empty where it does not say.

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
        # The published model of this answer leaves the version out.
        answer = self._last_answer()
        if "multi_user" not in answer:
            raise self._foreign("healthz", "it does not say whether it has several users")
        return str(answer.get("tag_name") or "")

    def pipeline(self, name: str) -> str:
        """The id of a pipeline, which is created if there is none of this name."""
        from kfp_server_api import V2beta1Pipeline

        listed = self._call(
            self._pipelines.pipeline_service_list_pipelines,
            namespace=self.namespace,
            filter=_name_filter(name),
        )
        if listed.pipelines:
            return self._id(listed.pipelines[0].pipeline_id)
        pipeline = V2beta1Pipeline(name=name, display_name=name, namespace=self.namespace)
        created = self._call(self._pipelines.pipeline_service_create_pipeline, pipeline)
        return self._id(created.pipeline_id)

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
        return self._id(created.pipeline_version_id)

    def experiment(self, name: str) -> str:
        """The id of an experiment, which is created if there is none of this name."""
        from kfp_server_api import V2beta1Experiment

        listed = self._call(
            self._experiments.experiment_service_list_experiments,
            namespace=self.namespace,
            filter=_name_filter(name),
        )
        if listed.experiments:
            return self._id(listed.experiments[0].experiment_id)
        experiment = V2beta1Experiment(display_name=name, namespace=self.namespace)
        created = self._call(self._experiments.experiment_service_create_experiment, experiment)
        return self._id(created.experiment_id)

    def start(self, run: "V2beta1Run") -> str:
        """Start a run. Returns its id."""
        return self._id(self._call(self._runs.run_service_create_run, run).run_id)

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
        return self._id(self._call(create, recurring_run).recurring_run_id)

    def run(self, run: str) -> "V2beta1Run":
        """A run by its id, with its state."""
        answer = self._call(self._runs.run_service_get_run, run)
        self._id(answer.run_id)
        return answer

    def newest_runs(self) -> "list[V2beta1Run]":
        """The runs that were started last, newest first."""
        listed = self._call(
            self._runs.run_service_list_runs,
            namespace=self.namespace,
            page_size=NEWEST_RUNS,
            sort_by="created_at desc",
        )
        return list(listed.runs or [])

    def find_run(self, name: str, where: str) -> "V2beta1Run":
        """A run by its id or its name; of several runs of one name the newest.

        Args:
            name: The id or the name.
            where: The begin of the message.

        Raises:
            ConfigError: There is none; the message has the nearest name.
        """
        if _RUN_ID.fullmatch(name):
            return self.run(name)
        newest = self.newest_runs()
        for run in newest:
            if name in (run.run_id, run.display_name):
                # The list leaves out the tasks.
                return self.run(str(run.run_id))
        raise unknown_name(where, name, {str(run.display_name) for run in newest})

    def link(self, run: str, recurring: bool = False) -> str:
        """The URL of the page of a run, or of a recurring one."""
        kind = "recurringrun" if recurring else "runs"
        return f"{self.ui}/#/{kind}/details/{run}"

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

        # Generated names are such as `run_service_get_run`.
        operation = function.__name__.partition("_service_")[2] or function.__name__
        try:
            answer = self._send(function, *arguments, **options)
            self._last_answer()
        except ApiException as error:
            raise self._refusal(operation, error) from error
        except _ForeignAnswerError as error:
            raise self._foreign(operation, str(error)) from error
        # From the generated models, for content that does not fit them.
        except (ValueError, TypeError, AttributeError) as error:
            raise self._foreign(operation, "its answer has another form") from error
        except (HTTPError, OSError) as error:
            problem = self._credentials.hide_in(str(error))
            raise NoAnswerError(
                f"{self.host}: must answer, but {problem}. Check --host."
            ) from error
        return answer

    def _send(
        self, function: Callable[..., Response], *arguments: object, **options: object
    ) -> Response:
        """Send a request, and once more where the login has been renewed since."""
        from kfp_server_api import ApiException

        try:
            return function(*arguments, **options, _request_timeout=API_TIMEOUT_SECONDS)
        except ApiException as error:
            if error.status != _NOT_LOGGED_IN or not self._log_in_again():
                raise
        return function(*arguments, **options, _request_timeout=API_TIMEOUT_SECONDS)

    def _log_in_again(self) -> bool:
        """Take the login as its files have it now; false where they say nothing new."""
        try:
            renewed = self._credentials.read_again()
        # Just being written, perhaps: that passes.
        except ConfigError as error:
            raise NoAnswerError(str(error)) from error
        self._set_headers()
        return renewed

    def _set_headers(self) -> None:
        for name, value in self._credentials.headers.items():
            self._client.set_default_header(name, value)

    def _last_answer(self) -> dict[str, object]:
        """The answer to the last request as it came.

        Raises:
            _ForeignAnswerError: It is not the API's.
        """
        # The generated client makes an empty model of any page.
        response = self._client.last_response
        kind = response.getheader("content-type") or "no content type"
        try:
            content = json.loads(response.data)
        except ValueError:
            content = None
        if not isinstance(content, dict):
            raise _ForeignAnswerError(f"it sent {kind}")
        return content

    def _id(self, value: str | None) -> str:
        """An id that the API must have given."""
        if not value:
            raise self._foreign("an answer", "it has no id")
        return str(value)

    def _foreign(self, operation: str, problem: str) -> ConfigError:
        problem = self._credentials.hide_in(problem)[:_MESSAGE_CHARACTERS]
        return ConfigError(
            f"{self.host}: {operation}: must be answered by the API of Kubeflow Pipelines, but "
            f"{problem}: a login's page, or another server. Check --host; for a login give "
            "--token-file or --header-file."
        )

    def _refusal(self, operation: str, error: "ApiException") -> ConfigError | NoAnswerError:
        status = error.status
        if 300 <= status < 400:
            return self._foreign(operation, f"it leads to another address ({status})")
        detail = self._credentials.hide_in(_detail(error.body))
        problem = f"{self.host}: {operation}: {status} {error.reason}{detail}"
        if status in (_NOT_LOGGED_IN, 403):
            return ConfigError(
                f"{problem}. Give a login that may do this (--token-file, --header-file)."
            )
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
