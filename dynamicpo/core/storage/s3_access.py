"""The way to an S3 store: its endpoint and keys, from the environment or from Kubeflow's Secret."""

import base64
import os
from pathlib import Path
from typing import NamedTuple

from dynamicpo.core.errors import DataError

_POD_FOLDER = Path("/var/run/secrets/kubernetes.io/serviceaccount")
# Names that Kubeflow Pipelines gives.
_SECRET = "mlpipeline-minio-artifact"
_DEFAULT_HOST = "minio-service.kubeflow:9000"
_REGION = "minio"


class Access(NamedTuple):
    """Endpoint, region and keys of a store; empty where boto3 finds them by itself."""

    endpoint: str = ""
    region: str = ""
    access_key: str = ""
    secret_key: str = ""
    hint: str = ""

    def __repr__(self) -> str:
        """The endpoint alone: no keys in a log."""
        return f"Access(endpoint={self.endpoint!r})"


def find_access(scheme: str) -> Access:
    """The access for a scheme.

    `s3://` has boto3's own variables, profiles and roles. `minio://` has MINIO_ENDPOINT,
    MINIO_ACCESS_KEY and MINIO_SECRET_KEY; in a pod without these, Kubeflow's service and Secret.

    Raises:
        DataError: Outside of a cluster without these variables, or the Secret can't be read.
    """
    if scheme == "s3://":
        return Access(hint="Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE.")
    in_pod = (_POD_FOLDER / "token").is_file()
    endpoint = os.environ.get("MINIO_ENDPOINT", "") or (_service() if in_pod else "")
    keys = (os.environ.get("MINIO_ACCESS_KEY", ""), os.environ.get("MINIO_SECRET_KEY", ""))
    if not all(keys) and in_pod:
        keys = _keys_of_secret()
    if not endpoint or not all(keys):
        raise DataError(
            "minio://: needs MINIO_ENDPOINT (such as http://127.0.0.1:9000), MINIO_ACCESS_KEY and "
            "MINIO_SECRET_KEY outside of the cluster, but not all are set. Forward the store's "
            f"port (kubectl port-forward) and take the keys from the Secret {_SECRET}."
        )
    if "://" not in endpoint:
        endpoint = f"http://{endpoint}"
    return Access(endpoint, _REGION, *keys)


def _service() -> str:
    """The store's address in the cluster, found as Kubeflow's launcher finds it."""
    for prefix in ("MINIO_SERVICE_SERVICE", "OBJECT_STORE"):
        host, port = os.environ.get(f"{prefix}_HOST"), os.environ.get(f"{prefix}_PORT")
        if host and port:
            return f"{host}:{port}"
    return _DEFAULT_HOST


def _keys_of_secret() -> tuple[str, str]:
    from kubernetes import client, config

    namespace = (_POD_FOLDER / "namespace").read_text(encoding="utf-8").strip()
    config.load_incluster_config()
    try:
        secret = client.CoreV1Api().read_namespaced_secret(_SECRET, namespace)
    except client.ApiException as error:
        raise DataError(
            f"minio://: needs the keys of the Secret {_SECRET} in namespace {namespace}, but the "
            f"cluster says {error.status} {error.reason}. Apply the component cluster-store, which "
            "lets pods get it."
        ) from None
    values = secret.data or {}
    access_key = base64.b64decode(values.get("accesskey", ""))
    secret_key = base64.b64decode(values.get("secretkey", ""))
    return access_key.decode(), secret_key.decode()
