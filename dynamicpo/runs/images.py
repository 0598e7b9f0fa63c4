"""Images: how they are named, and whether dynamicpo is inside."""

import re

from dynamicpo.errors import ConfigError

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
        raise ConfigError(f"{where}: must be an image such as registry/name@sha256:..., got {image!r}.")
    if "@" not in image and not allow_tag:
        raise ConfigError(
            f"{where}: must be named by digest (NAME@sha256:...), got {image!r}. KFP's cache goes by this text: after "
            "new code under the same tag it gives the results of the old. After a push `docker image inspect --format "
            f"'{{{{index .RepoDigests 0}}}}' {image}` prints the digest; --allow-tag takes the tag nevertheless."
        )
