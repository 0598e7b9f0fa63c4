"""Corrections that reach into the internals of transformers, each with its reason."""

from transformers import PreTrainedModel, PreTrainedTokenizerBase


def forget_gguf_format(model: PreTrainedModel) -> None:
    """Make a model that was read from a GGUF file an ordinary model of float32 weights.

    transformers dequantises such a file when it reads it, yet goes on to treat the model as a
    quantised one, which it refuses to save or to quantise.
    """
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.hf_quantizer = None
    model.is_quantized = False


def forget_local_files_only(tokenizer: PreTrainedTokenizerBase) -> None:
    """Remove from a tokenizer's settings that it was loaded offline.

    transformers saves the arguments with which a tokenizer was loaded, this one included. It says
    whether HF_HUB_OFFLINE was set, so that the same training would give other bytes.
    """
    tokenizer.init_kwargs.pop("local_files_only", None)
