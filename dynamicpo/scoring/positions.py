"""Number of positions of a model: the one check of all that runs tokens through it.

Most models compute their positions and have no end of them. Those that look them up in a table end
with it. Others turn queries and keys by angles that depend on the longest sequence of a call
(dynamic NTK, LongRoPE): up to the length from which they do, scores are those of each row alone.
"""

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from dynamicpo.core.errors import DataError
from dynamicpo.scoring.transformers_internals import causal_lm

# Names of tables of positions: "wpe", "embed_positions", "position_embeddings" and others.
_TABLE_NAME = re.compile(r"(^|\.)(wpe|\w*pos(itions?)?_?(embed|enc)\w*|embed_pos\w*)$")
# Towers of models that see or hear: their positions are those of patches.
_OF_IMAGES = re.compile("vision|visual|image|audio|speech")


class PositionLimit(NamedTuple):
    """The most tokens that a model takes, and why."""

    number: int
    reason: str


def position_limit(model: nn.Module) -> PositionLimit | None:
    """The most tokens of a sequence for a causal LM; None: there is no limit."""
    inner = causal_lm(model)
    limits = [
        *(PositionLimit(number, "there are no more") for number in _table_lengths(inner)),
        *(
            PositionLimit(number, "beyond them a score depends on the other rows of its batch")
            for number in _rotary_limits(inner.config.get_text_config(decoder=True))
        ),
    ]
    return min(limits, default=None)


def check_positions(model: nn.Module, num_tokens: int) -> None:
    """Refuse sequences that a model has too few positions for.

    Args:
        model: A causal LM.
        num_tokens: Tokens of the longest sequence.

    Raises:
        DataError: There are more of them than positions.
    """
    limit = position_limit(model)
    if limit is not None and num_tokens > limit.number:
        raise DataError(
            f"rows: prompt and answer must fit into the {limit.number} positions of the model "
            f"({limit.reason}), got {num_tokens} tokens. Shorten the prompts: train with a smaller "
            "max_length."
        )


def _table_lengths(model: PreTrainedModel) -> Iterator[int]:
    """Lengths of tables in which positions are looked up, learned or computed beforehand."""
    if model.config.model_type == "mpt":
        # Its table of distances is made for each call, of this length.
        yield int(model.config.max_seq_len)
    for name, module in model.named_modules():
        is_table = isinstance(module, nn.Embedding) and _TABLE_NAME.search(name)
        if is_table and not _OF_IMAGES.search(name):
            # Some keep rows in front that no position uses.
            yield module.num_embeddings - int(getattr(module, "offset", 0))
    for name, buffer in model.named_buffers():
        if buffer.dim() == 2 and _TABLE_NAME.search(name):
            yield len(buffer)


def _rotary_limits(config: PreTrainedConfig) -> Iterator[int]:
    """Lengths from which angles depend on the longest sequence of a call."""
    for settings in _rotary_settings(config):
        kind = settings.get("rope_type", settings.get("type"))
        if kind == "dynamic":
            yield int(config.max_position_embeddings)
        elif kind == "longrope":
            own = settings.get("original_max_position_embeddings")
            yield int(str(own or config.max_position_embeddings))


def _rotary_settings(config: PreTrainedConfig) -> list[Mapping[str, object]]:
    """Settings of rotary positions: one for all layers, or one for each kind of layer."""
    settings = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None)
    if not isinstance(settings, Mapping):
        return []
    nested = [value for value in settings.values() if isinstance(value, Mapping)]
    return nested or [settings]
