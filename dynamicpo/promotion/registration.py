"""Registration of a version with Kubeflow Model Registry, by the registry's own client.

The registry gets a name, figures and a URI; the files stay in the store of versions.
"""

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from dynamicpo.core.errors import ConfigError, DataError
from dynamicpo.core.messages import reason_of, without_secrets
from dynamicpo.promotion.version_cards import VersionCard
from dynamicpo.promotion.versions import read_version

if TYPE_CHECKING:
    from model_registry.core import ModelRegistryAPIClient
    from model_registry.types import ModelArtifact, ModelVersion, RegisteredModel

# Of the whole registration: a handful of small requests.
_DEADLINE_SECONDS = 60
_FORMAT, _FORMAT_VERSION = "safetensors", "1"


class RegistryPlace(NamedTuple):
    """A place in a registry.

    Attributes:
        server: Address of the registry, http:// or https://.
        model: Name of the registered model that versions belong to.
        token: Bearer token; "" where it asks for none.
    """

    server: str
    model: str
    token: str = ""


class Registration(NamedTuple):
    """A registered version.

    Attributes:
        model: Name of the registered model.
        version: The version's name, here and there.
        uri: Where its files are.
        is_new: False where all of it was registered before.
    """

    model: str
    version: str
    uri: str
    is_new: bool


def add_to_registry(store: str, name: str, place: RegistryPlace, author: str) -> Registration:
    """Register a published version; what an earlier attempt has left is completed.

    Args:
        store: The store of versions.
        name: The version's name.
        place: The registry, and the model there.
        author: Who registers it.

    Raises:
        ConfigError: The registry's client is not installed.
        DataError: There is no such version, the registry can't be used, or it has a version of
            this name that lies elsewhere.
    """
    client = _client(place)
    version = read_version(store, name)
    entry = _Entry(place.model, name, version.uri, author, _properties(version.card))
    try:
        return asyncio.run(asyncio.wait_for(_register(client, entry), _DEADLINE_SECONDS))
    except _failures() as error:
        reason = without_secrets(_reason(error))
        hidden = reason.replace(place.token, "***") if place.token else reason
        raise DataError(
            f"{without_secrets(place.server)}: must be a Kubeflow Model Registry that takes a "
            f"version, but {hidden}. Check the address and the token, and register it again."
        ) from error


class _Entry(NamedTuple):
    """An entry of the registry: a version and its model."""

    model: str
    version: str
    uri: str
    author: str
    properties: Mapping[str, str | float]


def _properties(card: VersionCard) -> dict[str, str | float]:
    """Figures that a reader chooses by; the card in the store says everything."""
    texts = {
        "backbone": card["backbone"],
        "base_checksum": card.get("base_checksum", ""),
        "evaluation": card["evaluation"],
        "fingerprint": card["fingerprint"],
        "generator": card.get("generator", ""),
        "licence": card["licence"],
        "objective": card["model"],
    }
    metrics = {name: value for name, value in card["metrics"].items() if value is not None}
    return {**texts, "seen_until": card["seen_until"], **metrics}


def _client(place: RegistryPlace) -> "ModelRegistryAPIClient":
    try:
        from model_registry.core import ModelRegistryAPIClient
        from mr_openapi import Configuration
    except ImportError as error:
        raise ConfigError(
            "register-version: needs the package model-registry, which is not installed. "
            "Install dynamicpo[registry]."
        ) from error
    # Without a token no header is sent, over https too: a proxy may know the user otherwise.
    return ModelRegistryAPIClient(Configuration(host=place.server, access_token=place.token))


async def _register(client: "ModelRegistryAPIClient", entry: _Entry) -> Registration:
    """Find or make the model, its version and the version's artifact, in this order."""
    model = await _model(client, entry)
    version, is_new = await _version(client, entry, _id_of(model.id))
    artifact = await client.get_model_artifact_by_params(entry.model, _id_of(version.id))
    if artifact is None:
        # Of an attempt that ended in between, too: a registry deletes no version.
        await client.upsert_model_version_artifact(_artifact(entry), _id_of(version.id))
        is_new = True
    elif artifact.uri != entry.uri:
        raise DataError(
            f"{entry.model} {entry.version}: must lie at {without_secrets(entry.uri)}, but the "
            f"registry says {without_secrets(str(artifact.uri))}. Register it under another --name."
        )
    return Registration(entry.model, entry.version, entry.uri, is_new)


async def _model(client: "ModelRegistryAPIClient", entry: _Entry) -> "RegisteredModel":
    from model_registry.types import RegisteredModel

    found: RegisteredModel | None = await client.get_registered_model_by_params(entry.model)
    if found is not None:
        return found
    new = RegisteredModel(name=entry.model, owner=entry.author)
    return await client.upsert_registered_model(new)


async def _version(
    client: "ModelRegistryAPIClient", entry: _Entry, model_id: str
) -> "tuple[ModelVersion, bool]":
    """The version of the model, and whether it was made now."""
    from model_registry.types import ModelVersion

    found: ModelVersion | None = await client.get_model_version_by_params(model_id, entry.version)
    if found is not None:
        return found, False
    properties = dict(entry.properties)
    new = ModelVersion(name=entry.version, author=entry.author, custom_properties=properties)
    return await client.upsert_model_version(new, model_id), True


def _artifact(entry: _Entry) -> "ModelArtifact":
    from model_registry.types import ModelArtifact

    return ModelArtifact(
        name=entry.model,
        uri=entry.uri,
        model_format_name=_FORMAT,
        model_format_version=_FORMAT_VERSION,
    )


def _id_of(value: str | None) -> str:
    if not value:
        raise ValueError("it answered without an id")
    return value


def _failures() -> tuple[type[Exception], ...]:
    """Errors of a registry that can't be used, as its client raises them."""
    from aiohttp import ClientError
    from mr_openapi import ApiException

    # A page of a login is no JSON, or none of the registry's: ValueError, AssertionError.
    return (ApiException, ClientError, OSError, ValueError, AssertionError, TimeoutError)


def _reason(error: Exception) -> str:
    status = getattr(error, "status", None)
    if status:
        return f"it answered {status} {getattr(error, 'reason', '')}".strip()
    if isinstance(error, TimeoutError):
        return f"it did not answer within {_DEADLINE_SECONDS} s"
    return reason_of(error)
