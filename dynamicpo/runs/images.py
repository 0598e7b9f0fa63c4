"""Images: how they are named, and whether dynamicpo is inside."""

import logging
import re

from dynamicpo import __version__
from dynamicpo.core.errors import ConfigError
from dynamicpo.runs.registry import Repository

log = logging.getLogger(__name__)

TITLE, VERSION = "org.opencontainers.image.title", "org.opencontainers.image.version"
REVISION = "org.opencontainers.image.revision"
_NAME = re.compile(r"[\w.-]+(:\d+)?(/[\w.-]+)*(:[\w.-]+)?(@sha256:[0-9a-f]{64})?")


def check_name(where: str, image: str, allow_tag: bool = False) -> None:
    """Refuse what is not an image's name, and a tag.

    Args:
        where: The setting that names it.
        image: The name.
        allow_tag: Whether a name without a digest will do.

    Raises:
        ConfigError: It can't be used.
    """
    if not _NAME.fullmatch(image):
        raise ConfigError(
            f"{where}: must be an image such as registry/name@sha256:..., got {image!r}."
        )
    if "@" not in image and not allow_tag:
        raise ConfigError(
            f"{where}: must be named by digest (NAME@sha256:...), got {image!r}. KFP's cache goes by this text: after "
            "new code under the same tag it gives the results of the old. After a push `docker image inspect --format "
            f"'{{{{index .RepoDigests 0}}}}' {image}` prints the digest; --allow-tag takes the tag nevertheless."
        )


def check_content(where: str, image: str) -> None:
    """Whether dynamicpo is inside an image, by what its registry says of it: nothing is fetched or run.

    images/build.sh puts the label on an image only after dynamicpo ran in it, and images made from one inherit it.

    Args:
        where: The setting that names it.
        image: The name.

    Raises:
        ConfigError: It is not, or that can't be known.
    """
    try:
        labels = Repository(image).labels()
    except ConfigError as error:
        raise ConfigError(
            f"{where}: {image} must hold dynamicpo, but its registry does not say: {error}. Log in (`docker login`), "
            "or give --no-image-check if you know what is inside."
        ) from error
    if labels.get(TITLE) != "dynamicpo":
        raise ConfigError(
            f"{where}: {image} must hold dynamicpo, but its label {TITLE} is {labels.get(TITLE)!r}. Build it with "
            "images/build.sh, or give --no-image-check if you know what is inside."
        )
    found = labels.get(VERSION)
    if found != __version__:
        log.warning(
            "%s holds dynamicpo %s, this is %s: the tasks run what is inside",
            image,
            found,
            __version__,
        )
