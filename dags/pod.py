"""The trainer as a pod: Airflow's Kubernetes operator, with the GPUs that the launcher asks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from airflow.providers.cncf.kubernetes.callbacks import KubernetesPodOperatorCallback
from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from airflow.sdk.exceptions import AirflowException
from kubernetes.client import models as k8s

from dags import seen
from dags.launch import Said, judge
from dags.settings import Pipeline

STOPS_WITHIN_S = 120  # a pod that is deleted has so long for its checkpoint


class LaunchPod(KubernetesPodOperator):
    """The command in a pod of the launcher's image; its exit code and last line mean what they mean everywhere."""

    def __init__(self, *, pipeline: Pipeline, arguments: Sequence[str], kept: Sequence[int] = (), **rest: Any) -> None:
        launcher = pipeline.launcher
        self.kept, self._said = tuple(kept), Said()
        super().__init__(
            name=f"penstock-{pipeline.name}-{rest['task_id']}".replace("_", "-").lower(),
            namespace=launcher.namespace,
            image=launcher.image,
            cmds=[launcher.penstock],
            arguments=[*arguments, "--json"],
            container_resources=k8s.V1ResourceRequirements(limits={"nvidia.com/gpu": str(launcher.gpus)}),
            termination_grace_period=STOPS_WITHIN_S,
            callbacks=_hears(self._said),
            get_logs=True,
            **rest,
        )

    def execute(self, context: Mapping[str, Any]) -> dict[str, Any]:
        try:
            super().execute(context)
            code = 0
        except AirflowException:
            if (ended := _exit_code(self.remote_pod, self.base_container_name)) is None:
                raise  # the pod never ran, or is gone with its node
            code = ended
        told = judge(code, self._said, self.kept)
        seen.tell(context, told)
        return told


def _hears(said: Said) -> type[KubernetesPodOperatorCallback]:
    class Hears(KubernetesPodOperatorCallback):
        @staticmethod
        def progress_callback(*, line: str, **_: Any) -> None:
            said.hear(line)

    return Hears


def _exit_code(pod: k8s.V1Pod | None, container: str) -> int | None:
    for found in (pod.status.container_statuses or []) if pod is not None and pod.status is not None else []:
        if found.name == container and found.state is not None and found.state.terminated is not None:
            return int(found.state.terminated.exit_code)
    return None
