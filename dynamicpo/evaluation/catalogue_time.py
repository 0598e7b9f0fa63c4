"""Estimate of the time that ranking every item takes, from counted work.

The work is counted, not timed: so the same rows and models are ranked in the same way however busy
the machine is, and by however many processes.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from dynamicpo.core.config import EvaluationConfig
from dynamicpo.core.records.manifest import read_input
from dynamicpo.core.records.version_folders import enclosing_version, model_of
from dynamicpo.evaluation.candidates import RankingModel
from dynamicpo.evaluation.known_items import encode_catalogue
from dynamicpo.evaluation.rows import EvaluationData
from dynamicpo.models.backbones import permissions_of
from dynamicpo.models.checkpoints import load_model
from dynamicpo.models.execution import device, release_memory
from dynamicpo.prompts.encoding import Prompts
from dynamicpo.scoring.catalogue_scoring import catalogue_tokens


class _Speed(NamedTuple):
    """Speed at which tokens go through a model.

    Attributes:
        rate: Operations a second in products of matrices.
        seconds: Of a token besides.
    """

    rate: float
    seconds: float


# By the kind of device. CPU: two cores, as tests/benchmarks/catalogue.py measures the whole tree.
# GPU: not measured for this; the rate is a quarter of an H100's products in training, and the
# start of a pass's kernels takes some 15 ms for 512 tokens.
_SPEEDS = {"cpu": _Speed(7.5e10, 0.0), "cuda": _Speed(2e14, 3e-5)}


def minutes_of_catalogue(
    models: Mapping[str, Path], data: EvaluationData, config: EvaluationConfig
) -> float:
    """Minutes that ranking every item would take one of the models, on a plain device of this kind.

    The slowest counts: the models of a run are evaluated apart, and must be ranked alike.

    All of the token tree is counted: without what is below a target's score it takes less, by a
    fifth with an untrained model.

    Args:
        models: Their folders by name.
        data: Rows that rank every item.
        config: Score, backend, permissions.
    """
    permissions = permissions_of(config)
    seconds = 0.0
    for name, path in models.items():
        folder = model_of(path)
        manifest = read_input(folder)
        # One softmax gives the scores of all items of one token: a list would take no less.
        if manifest.extra["prompts"]["item_text"] == "token":
            continue
        loaded = load_model(folder, permissions)
        is_version = enclosing_version(path) is not None
        model = RankingModel(loaded, config, name, is_version)
        seconds = max(seconds, _seconds_of_catalogue(model, data))
        # Models are large: one at a time.
        del loaded, model
        release_memory()
    return seconds / 60


def _seconds_of_catalogue(model: RankingModel, data: EvaluationData) -> float:
    loaded = model.loaded
    config = model.config
    prompts = Prompts(loaded.tokenizer, data.items, loaded.settings)
    encoded = encode_catalogue(data, prompts, is_version=model.is_version)
    network = loaded.model
    num_tokens = catalogue_tokens(network, encoded.prompt_ids, encoded.answers, config.backend)
    num_weights = sum(weight.numel() for weight in network.parameters())
    speed = _SPEEDS[device().type]
    seconds_of_token = 2 * num_weights / speed.rate + speed.seconds
    return num_tokens * seconds_of_token
