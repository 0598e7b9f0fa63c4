"""Names of images, and the check that dynamicpo is inside."""

import logging
import re

from dynamicpo import __version__
from dynamicpo.core.errors import ConfigError
from dynamicpo.runs.registry import Repository

log = logging.getLogger(__name__)

TITLE_LABEL = "org.opencontainers.image.title"
VERSION_LABEL = "org.opencontainers.image.version"
REVISION_LABEL = "org.opencontainers.image.revision"
# host[:port]/path[:tag][@digest]; looser than the reference grammar, which the registry checks.
_IMAGE_NAME = re.compile(r"[\w.-]+(:\d+)?(/[\w.-]+)*(:[\w.-]+)?(@sha256:[0-9a-f]{64})?")


def check_image_name(where: str, image: str, allow_tag: bool = False) -> None:
    """Refuse a text that is not an image's name, and a tag.

    Args:
        where: The setting that names the image.
        image: The name.
        allow_tag: Whether a name without a digest will do.

    Raises:
        ConfigError: It can't be used.
    """
    if not _IMAGE_NAME.fullmatch(image):
        raise ConfigError(
            f"{where}: must be an image such as registry/name@sha256:..., got {image!r}."
        )
    if "@" in image or allow_tag:
        return
    inspect = f"docker image inspect --format '{{{{index .RepoDigests 0}}}}' {image}"
    raise ConfigError(
        f"{where}: must be named by digest (NAME@sha256:...), got {image!r}. KFP's cache goes by "
        "this text: after new code under the same tag it gives the results of the old. "
        f"After a push `{inspect}` prints the digest; --allow-tag takes the tag nevertheless."
    )


def check_labels(where: str, image: str) -> None:
    """Check by its labels that an image holds dynamicpo: nothing is downloaded or run.

    images/build.sh labels an image only after dynamicpo has run in it, and an image that is built
    from another inherits its labels.

    Args:
        where: The setting that names the image.
        image: The name.

    Raises:
        ConfigError: It does not hold dynamicpo, or the registry does not answer.
    """
    try:
        labels = Repository(image).labels()
    except ConfigError as error:
        raise ConfigError(
            f"{where}: {image} must hold dynamicpo, but its registry does not say: {error}. "
            "Log in (`docker login`), or give --no-image-check if you know what is inside."
        ) from error
    title = labels.get(TITLE_LABEL)
    if title != "dynamicpo":
        raise ConfigError(
            f"{where}: {image} must hold dynamicpo, but its label {TITLE_LABEL} is {title!r}. "
            "Build it with images/build.sh, or give --no-image-check if you know what is inside."
        )
    version = labels.get(VERSION_LABEL)
    if version != __version__:
        warn_of_version(image, version)


def warn_of_version(image: str, version: str | None) -> None:
    """Log that an image holds another version than the one that checks the parameters."""
    log.warning(
        "%s holds dynamicpo %s, this is %s: the tasks run what is in the image",
        image,
        version,
        __version__,
    )
