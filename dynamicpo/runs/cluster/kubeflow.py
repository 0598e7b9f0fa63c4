"""A Kubeflow Pipelines installation: its API, with errors that say what to do.

The SDK's own client prints, keeps a namespace in the home folder, tells no failed run from a good one, and waits for
ever for a cancelled one; so this talks to the API by its generated models.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dynamicpo.core.errors import ConfigError, RunFailedError

TIMEOUT_SECONDS = 60


class NoAnswerError(RunFailedError):
    """The installation can't be reached, or says that it can't answer now."""


class Kubeflow:
    """One installation.

    Args:
        host: Where its API answers; the UI's address does as well.
        token: A bearer token, where it asks for one.
        namespace: Of the user, where it has several.
    """

    def __init__(self, host: str, token: str = "", namespace: str = "") -> None:
        """Make the clients; nothing is asked yet."""
        import kfp_server_api as api

        if not host.startswith(("http://", "https://")):
            raise ConfigError(f"--host: must begin with http:// or https://, got {host!r}.")
        self.host, self.namespace = host.rstrip("/"), namespace
        settings = api.Configuration(host=self.host)
        settings.retries = False
        if token:
            settings.api_key, settings.api_key_prefix = (
                {"authorization": token},
                {"authorization": "Bearer"},
            )
        client = api.ApiClient(settings)
        self._health, self._uploads = (
            api.HealthzServiceApi(client),
            api.PipelineUploadServiceApi(client),
        )
        self._pipelines, self._experiments = (
            api.PipelineServiceApi(client),
            api.ExperimentServiceApi(client),
        )
        self._runs, self._recurring = api.RunServiceApi(client), api.RecurringRunServiceApi(client)

    def check(self) -> None:
        """Whether it answers, and has one user or several as the namespace says.

        Raises:
            ConfigError: Not so.
        """
        try:
            many = bool(self._call(self._health.healthz_service_get_healthz).multi_user)
        except NoAnswerError as error:
            raise ConfigError(str(error)) from error
        if many and not self.namespace:
            raise ConfigError(
                f"--namespace: must be given, because {self.host} has a namespace for each user."
            )
        if self.namespace and not many:
            raise ConfigError(
                f"--namespace: must not be given, because {self.host} has one user. Leave {self.namespace!r} out."
            )

    def pipeline(self, name: str) -> str:
        """The id of a pipeline, which is made if it is not there."""
        from kfp_server_api import V2beta1Pipeline

        found = self._call(
            self._pipelines.pipeline_service_list_pipelines,
            namespace=self.namespace,
            filter=_named(name),
        )
        if found.pipelines:
            return str(found.pipelines[0].pipeline_id)
        new = V2beta1Pipeline(name=name, display_name=name, namespace=self.namespace)
        return str(self._call(self._pipelines.pipeline_service_create_pipeline, new).pipeline_id)

    def version(self, pipeline: str, name: str) -> tuple[str, str]:
        """The id and the description of a pipeline's version, empty if it is not there."""
        found = self._call(
            self._pipelines.pipeline_service_list_pipeline_versions,
            pipeline,
            filter=_named(name),
        )
        versions = found.pipeline_versions or []
        return (
            (str(versions[0].pipeline_version_id), versions[0].description or "")
            if versions
            else ("", "")
        )

    def version_name(self, pipeline: str, version: str) -> str:
        """The name of a pipeline's version: `submit` names them by the commit."""
        return str(
            self._call(
                self._pipelines.pipeline_service_get_pipeline_version, pipeline, version
            ).display_name
            or version
        )

    def upload(self, pipeline: str, name: str, description: str, file: Path) -> str:
        """Add a version to a pipeline. Returns its id."""
        upload = self._uploads.upload_pipeline_version
        made = self._call(
            upload, str(file), name=name, pipelineid=pipeline, description=description
        )
        return str(made.pipeline_version_id)

    def experiment(self, name: str) -> str:
        """The id of an experiment, which is made if it is not there."""
        from kfp_server_api import V2beta1Experiment

        found = self._call(
            self._experiments.experiment_service_list_experiments,
            namespace=self.namespace,
            filter=_named(name),
        )
        if found.experiments:
            return str(found.experiments[0].experiment_id)
        new = V2beta1Experiment(display_name=name, namespace=self.namespace)
        return str(
            self._call(self._experiments.experiment_service_create_experiment, new).experiment_id
        )

    def start(self, run: Any) -> str:
        """Start a `V2beta1Run`. Returns its id."""
        return str(self._call(self._runs.run_service_create_run, run).run_id)

    def repeat(self, run: Any, cron: str) -> str:
        """Start a `V2beta1Run` on a schedule, one at a time. Returns the id of the recurring run."""
        import kfp_server_api as api

        recurring = api.V2beta1RecurringRun(
            display_name=run.display_name,
            experiment_id=run.experiment_id,
            pipeline_version_reference=run.pipeline_version_reference,
            runtime_config=run.runtime_config,
            service_account=run.service_account,
            trigger=api.V2beta1Trigger(cron_schedule=api.V2beta1CronSchedule(cron=cron)),
            max_concurrency="1",
            mode="ENABLE",
            no_catchup=True,
        )
        made = self._call(self._recurring.recurring_run_service_create_recurring_run, recurring)
        return str(made.recurring_run_id)

    def run(self, run: str) -> Any:
        """How a run is: a `V2beta1Run`."""
        return self._call(self._runs.run_service_get_run, run)

    def newest_runs(self) -> list[Any]:
        """The runs that were started last, at most a hundred, newest first."""
        given = {"namespace": self.namespace, "page_size": 100, "sort_by": "created_at desc"}
        return list(self._call(self._runs.run_service_list_runs, **given).runs or [])

    def link(self, run: str, recurring: bool = False) -> str:
        """The page of a run, or of a recurring one."""
        return f"{self.host}/#/{'recurringrun' if recurring else 'runs'}/details/{run}"

    def _call(self, call: Callable[..., Any], *arguments: Any, **more: Any) -> Any:
        """Ask; what goes wrong is said in one line.

        Raises:
            ConfigError: It was asked for something that it refuses.
            NoAnswerError: It does not answer, or not now.
        """
        from kfp_server_api import ApiException
        from urllib3.exceptions import HTTPError

        what = call.__name__.partition("_service_")[2] or call.__name__
        try:
            return call(*arguments, **more, _request_timeout=TIMEOUT_SECONDS)
        except ApiException as error:
            text = f"{self.host}: {what}: {error.status} {error.reason}{_said(error.body)}"
            if error.status in (401, 403):
                raise ConfigError(
                    f"{text}. Give a token that may do this (--token-file)."
                ) from error
            if error.status in (0, 429) or error.status >= 500:
                raise NoAnswerError(text) from error
            raise ConfigError(text) from error
        except (HTTPError, OSError) as error:
            raise NoAnswerError(f"{self.host}: must answer, but {error}. Check --host.") from error


def _named(name: str) -> str:
    """The API's filter for one display name."""
    return json.dumps(
        {"predicates": [{"operation": "EQUALS", "key": "display_name", "stringValue": name}]}
    )


def _said(body: Any) -> str:
    """The API's own words, where there are some."""
    try:
        found = json.loads(body or "{}")
        text = found.get("message") or found.get("error_message") or found.get("error") or ""
    except (ValueError, AttributeError):  # not JSON, or no object
        return ""
    return f": {' '.join(str(text).split())[:500]}" if text else ""
