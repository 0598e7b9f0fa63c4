"""What a registry says of an image, without fetching it: the labels, by the registry API that all of them speak.

Credentials are those that `docker login` or a credential helper keeps.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from dynamicpo.core.errors import ConfigError

TIMEOUT_SECONDS = 30
_MANIFESTS = (
    "application/vnd.oci.image.index.v1+json, application/vnd.docker.distribution.manifest.list.v2+json, "
    "application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json"
)


class Repository:
    """One repository of images.

    Args:
        name: An image's name; its tag or digest is the default of `labels`.
    """

    def __init__(self, name: str) -> None:
        """Take the name apart; nothing is asked yet."""
        import requests
        from docker import auth, errors

        path, _, digest = name.partition("@")
        rest, _, tag = (
            path.rpartition(":") if ":" in path.rpartition("/")[2] else (path, "", "latest")
        )
        index, repository = auth.resolve_repository_name(rest)
        self._reference = digest or tag
        self.registry = "registry-1.docker.io" if index == "docker.io" else index
        self._repository = (
            f"library/{repository}"
            if index == "docker.io" and "/" not in repository
            else repository
        )
        local = self.registry.partition(":")[0] in ("localhost", "127.0.0.1")
        self._address = f"{'http' if local else 'https'}://{self.registry}/v2/{self._repository}"
        try:
            login = auth.load_config().resolve_authconfig(index) or {}
        except errors.DockerException as error:
            raise ConfigError(
                f"{self.registry}: Docker's credentials can't be read: {error}"
            ) from error
        self._login = {key.lower(): value for key, value in login.items()}
        self._session = requests.Session()

    def labels(self) -> dict[str, str]:
        """The image's labels.

        Raises:
            ConfigError: The registry can't be asked, or has no such image.
        """
        manifest = self._get(f"manifests/{self._reference}", _MANIFESTS)
        if "manifests" in manifest:  # an index of several platforms
            manifest = self._get(f"manifests/{_of_cluster(manifest['manifests'])}", _MANIFESTS)
        found = self._get(f"blobs/{manifest['config']['digest']}", "*/*")
        return dict(found.get("config", {}).get("Labels") or {})

    def _get(self, path: str, accept: str) -> dict[str, Any]:
        import requests

        headers = {"Accept": accept}
        try:
            answer = self._session.get(
                f"{self._address}/{path}", headers=headers, timeout=TIMEOUT_SECONDS
            )
            if answer.status_code == 401:
                self._authorize(answer.headers.get("WWW-Authenticate", ""))
                answer = self._session.get(
                    f"{self._address}/{path}", headers=headers, timeout=TIMEOUT_SECONDS
                )
            answer.raise_for_status()
            return dict(answer.json())
        except (requests.RequestException, ValueError) as error:
            raise ConfigError(
                f"{self.registry}: can't be asked for {self._repository}: {error}"
            ) from error

    def _authorize(self, challenge: str) -> None:
        """Log in as the registry asks for it: with a token of its token service, or with the password itself."""
        from requests.utils import parse_dict_header

        login = (self._login.get("username", ""), self._login.get("password", ""))
        kind, _, rest = challenge.partition(" ")
        if kind.lower() != "bearer":
            self._session.auth = login
            return
        asked = parse_dict_header(rest)
        where = asked.pop("realm")
        auth = login if login[1] else None
        answer = self._session.get(where, params=asked, auth=auth, timeout=TIMEOUT_SECONDS)
        answer.raise_for_status()
        token = answer.json()
        self._session.headers["Authorization"] = (
            f"Bearer {token.get('token') or token.get('access_token')}"
        )


def _of_cluster(manifests: Sequence[Mapping[str, Any]]) -> str:
    """The digest of the manifest for the nodes of k8s/: Linux on amd64, or else the first one."""
    fitting = [
        item for item in manifests if item.get("platform", {}).get("architecture") == "amd64"
    ]
    return str((fitting or manifests)[0]["digest"])
