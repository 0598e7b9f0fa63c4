"""Labels of an image, read from its registry by the API that all registries share.

Credentials are those that `docker login` or a credential helper keeps.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NotRequired, TypedDict, cast

from dynamicpo.core.errors import ConfigError

if TYPE_CHECKING:
    import requests

REGISTRY_TIMEOUT_SECONDS = 30
_MANIFEST_TYPES = ", ".join(
    (
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.v2+json",
    )
)


class _Platform(TypedDict):
    architecture: NotRequired[str]


class _Descriptor(TypedDict):
    """A reference to another document, by digest."""

    digest: str
    platform: NotRequired[_Platform]


class _ImageManifest(TypedDict):
    """The manifest of one platform, or an index of those of several."""

    manifests: NotRequired[Sequence[_Descriptor]]
    config: _Descriptor


class _RuntimeConfig(TypedDict):
    Labels: NotRequired[Mapping[str, str] | None]


class _ImageConfig(TypedDict):
    config: NotRequired[_RuntimeConfig]


class Repository:
    """One repository of images.

    Args:
        image: An image's name; `labels` reads the tag or digest in it.
    """

    def __init__(self, image: str) -> None:
        """Parse the name and load the credentials; no request is sent yet."""
        import requests
        from docker import auth, errors

        name, self._reference = _split_reference(image)
        index, repository = auth.resolve_repository_name(name)
        is_docker_hub = index == "docker.io"
        # Docker Hub's API has a host of its own, and its official images a folder that names omit.
        self.registry = "registry-1.docker.io" if is_docker_hub else index
        is_official = is_docker_hub and "/" not in repository
        self._repository = f"library/{repository}" if is_official else repository
        # As Docker does: a registry of this machine is asked without TLS.
        is_local = self.registry.partition(":")[0] in ("localhost", "127.0.0.1")
        scheme = "http" if is_local else "https"
        self._url = f"{scheme}://{self.registry}/v2/{self._repository}"
        try:
            login = auth.load_config().resolve_authconfig(index) or {}
        except errors.DockerException as error:
            raise ConfigError(
                f"{self.registry}: Docker's credentials can't be read: {error}"
            ) from error
        # Keys are `Username` from a credential helper and `username` from Docker's own file.
        self._login = {key.lower(): value for key, value in login.items()}
        self._session = requests.Session()

    def labels(self) -> dict[str, str]:
        """The image's labels.

        Raises:
            ConfigError: The registry can't be reached, or has no such image.
        """
        manifest = self._manifest(self._reference)
        if "manifests" in manifest:
            digest = _cluster_platform_digest(manifest["manifests"])
            manifest = self._manifest(digest)
        blob = self._get_json(f"blobs/{manifest['config']['digest']}", "*/*")
        config = cast(_ImageConfig, blob).get("config", {})
        return dict(config.get("Labels") or {})

    def _manifest(self, reference: str) -> _ImageManifest:
        return cast(_ImageManifest, self._get_json(f"manifests/{reference}", _MANIFEST_TYPES))

    def _get_json(self, path: str, accept: str) -> dict[str, object]:
        import requests

        try:
            response = self._get(path, accept)
            if response.status_code == 401:
                self._authorize(response.headers.get("WWW-Authenticate", ""))
                response = self._get(path, accept)
            response.raise_for_status()
            return dict(response.json())
        except (requests.RequestException, ValueError) as error:
            raise ConfigError(
                f"{self.registry}: can't be asked for {self._repository}: {error}"
            ) from error

    def _get(self, path: str, accept: str) -> "requests.Response":
        headers = {"Accept": accept}
        url = f"{self._url}/{path}"
        return self._session.get(url, headers=headers, timeout=REGISTRY_TIMEOUT_SECONDS)

    def _authorize(self, challenge: str) -> None:
        """Log in as the registry demands: by a token of its token service, or by the password.

        Args:
            challenge: The header `WWW-Authenticate` of the registry's refusal.
        """
        from requests.utils import parse_dict_header

        user = self._login.get("username", "")
        password = self._login.get("password", "")
        scheme, _, parameters = challenge.partition(" ")
        if scheme.lower() != "bearer":
            self._session.auth = (user, password)
            return
        query = parse_dict_header(parameters)
        token_service = query.pop("realm")
        # Without credentials the service gives a token for what everybody may read.
        login = (user, password) if password else None
        response = self._session.get(
            token_service, params=query, auth=login, timeout=REGISTRY_TIMEOUT_SECONDS
        )
        response.raise_for_status()
        body = response.json()
        # `token` by the specification; `access_token` for clients of OAuth 2.
        token = body.get("token") or body.get("access_token")
        self._session.headers["Authorization"] = f"Bearer {token}"


def _split_reference(image: str) -> tuple[str, str]:
    """An image's name without its tag and digest, and its digest or else its tag."""
    path, _, digest = image.partition("@")
    # A colon before the last slash belongs to the registry's port.
    if ":" in path.rpartition("/")[2]:
        name, _, tag = path.rpartition(":")
    else:
        name, tag = path, "latest"
    return name, digest or tag


def _cluster_platform_digest(manifests: Sequence[_Descriptor]) -> str:
    """The digest of the manifest for the nodes of k8s/: Linux on amd64, or else the first one."""
    for manifest in manifests:
        if manifest.get("platform", {}).get("architecture") == "amd64":
            return manifest["digest"]
    return manifests[0]["digest"]
