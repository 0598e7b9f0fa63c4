"""The tasks of a graph side by side: kfp.local, as of 2.17, runs them one after another.

Only the rounds of a loop run at once there. Here each task starts as soon as those that it depends
on have ended; what a task, a condition and a loop do is still kfp's.
"""

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, NotRequired, TypedDict

if TYPE_CHECKING:
    from kfp.local.io import IOStore
    from kfp.local.status import Status
    from kfp.pipeline_spec.pipeline_spec_pb2 import ComponentSpec, PipelineTaskSpec

    Outputs = dict[str, object]
    Result = tuple[Outputs, Status]


class GraphArguments(TypedDict):
    """The arguments of kfp's `run_enhanced_dag` that are read here; it takes more."""

    dag_component_spec: "ComponentSpec"
    dag_arguments: Mapping[str, object]
    parent_io_store: NotRequired["IOStore"]


# Arguments that are the same for every task of a graph.
_SHARED = (
    *("pipeline_resource_name", "components", "executors", "pipeline_root", "runner"),
    *("unique_pipeline_id", "fail_stack"),
)


def run_graph(
    original: "Callable[..., Result]", workers: int, arguments: GraphArguments
) -> "Result":
    """Run a graph, with tasks that do not depend on each other at once.

    Args:
        original: kfp's function, for a graph with a task that is to run after a failure.
        workers: The number of tasks that may run at once.
        arguments: All its arguments.

    Returns:
        The graph's outputs, and whether all its tasks succeeded.
    """
    from kfp.local import graph_utils
    from kfp.local.orchestrator.orchestrator_utils import OrchestratorUtils
    from kfp.local.status import Status

    component = arguments["dag_component_spec"]
    tasks = dict(component.dag.tasks)
    if any(task.trigger_policy.strategy for task in tasks.values()):
        return original(**arguments)
    graph = _Graph(tasks, workers, arguments)
    # From the right side of kfp's stack: a task comes after those that it depends on.
    order = graph_utils.topological_sort_tasks(tasks)[::-1]
    ended: dict[str, Future[bool]] = {}
    # Threads alone: how many tasks run at once is decided where each is executed.
    with ThreadPoolExecutor(max_workers=len(tasks)) as threads:
        for name in order:
            needed = [ended[other] for other in tasks[name].dependent_tasks]
            ended[name] = threads.submit(graph.run_after, needed, name)
    if not all(future.result() for future in ended.values()):
        return {}, Status.FAILURE
    outputs = OrchestratorUtils.get_dag_outputs(
        dag_outputs_spec=component.dag.outputs, io_store=graph.values
    )
    return outputs, Status.SUCCESS


class _Graph:
    """Tasks of one level of a pipeline, and the values that pass between them.

    Attributes:
        values: The values.
    """

    def __init__(
        self, tasks: "Mapping[str, PipelineTaskSpec]", workers: int, arguments: GraphArguments
    ) -> None:
        """Take the arguments, and the defaults of those that are not given."""
        from kfp.local.io import IOStore
        from kfp.local.orchestrator.enhanced_dag_orchestrator import ParallelExecutor
        from kfp.local.orchestrator.orchestrator_utils import OrchestratorUtils

        self.values = IOStore(parent=arguments.get("parent_io_store"))
        values = OrchestratorUtils.join_user_inputs_and_defaults(
            dag_arguments=arguments["dag_arguments"],
            dag_inputs_spec=arguments["dag_component_spec"].input_definitions,
        )
        for name, value in values.items():
            self.values.put_parent_input(name, value)
        self._tasks = tasks
        shared = {name: value for name, value in arguments.items() if name in _SHARED}
        self._shared = {**shared, "io_store": self.values}
        self._loops = ParallelExecutor()
        # kfp has two rounds under way at most. One more than there are workers, so that a worker
        # finds something to do while a round waits for its next task.
        self._loops.conservative_max = self._loops.max_workers = workers + 1

    def run_after(self, needed: "list[Future[bool]]", name: str) -> bool:
        """Wait for others, then run a task. Returns whether all of them and the task succeeded."""
        if not all([future.result() for future in needed]):
            return False
        is_run = self._run_loop if self._tasks[name].WhichOneof("iterator") else self._run_task
        return is_run(name)

    def _run_task(self, name: str) -> bool:
        from kfp.local.orchestrator.enhanced_dag_orchestrator import (
            ConditionEvaluator,
            execute_task,
        )
        from kfp.local.status import Status

        task = self._tasks[name]
        condition = task.trigger_policy.condition
        if condition and not ConditionEvaluator.evaluate_condition(condition, self.values):
            return True
        outputs, status = execute_task(task_name=name, task_spec=task, **self._shared)
        for key, value in outputs.items():
            self.values.put_task_output(name, key, value)
        return bool(status == Status.SUCCESS)

    def _run_loop(self, name: str) -> bool:
        from kfp.local.orchestrator.enhanced_dag_orchestrator import _run_parallel_for_task

        has_failed = _run_parallel_for_task(
            task_name=name,
            task_spec=self._tasks[name],
            parallel_executor=self._loops,
            **self._shared,
        )
        return not has_failed
