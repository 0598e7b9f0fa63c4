"""Tokenizers of models: tried when they are loaded, and no token without a row in the model."""

import json
from collections.abc import Iterator
from contextlib import contextmanager

import transformers
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from dynamicpo.core.errors import DataError
from dynamicpo.core.messages import reason_of
from dynamicpo.models.weights import WeightSource


def load_checked_tokenizer(source: WeightSource) -> PreTrainedTokenizerBase:
    """The tokenizer of a model, which has tokenised a text.

    Raises:
        Exception: Damaged files give almost any.
    """
    with _panics_as_errors():
        tokenizer: PreTrainedTokenizerBase = transformers.AutoTokenizer.from_pretrained(**source)
        tokenizer(["a"], add_special_tokens=False)
    # It is saved with each trained model: after the training it would be too late to fail.
    settings = json.dumps(tokenizer.init_kwargs, default=str, ensure_ascii=False)
    settings.encode()
    return tokenizer


@contextmanager
def _panics_as_errors() -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        # Of Rust; no module exports its class, and it is no Exception.
        if type(error).__name__ == "PanicException":
            raise ValueError(reason_of(error)) from error
        raise


def check_tokens(where: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a tokenizer with tokens that the model has no rows for.

    Raises:
        DataError: It has some: it is another model's, or damaged.
    """
    num_rows = model.get_input_embeddings().num_embeddings
    for token, token_id in _used_tokens(tokenizer).items():
        if token_id >= num_rows:
            raise DataError(
                f"{where}: must hold a tokenizer of this model, which has {num_rows} rows of "
                f"embeddings, but token {token!r} is number {token_id}. Get the whole model."
            )


def _used_tokens(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """Ids of the tokens that a text may get.

    Not of special ones without a role here, such as those of images: some models of text keep the
    tokenizer of their sibling that sees.
    """
    roles = {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id}
    unused = {
        token_id
        for token_id, token in tokenizer.added_tokens_decoder.items()
        if token.special and token_id not in roles
    }
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    return {token: token_id for token, token_id in vocabulary.items() if token_id not in unused}
