"""Do all ways of scoring agree on the card, with each other and with the CPU, forward and backward?

For every supported architecture (head dimension 64, shapes shared so that few kernels are
compiled): FlexAttention, SDPA and the plain way, in float32 to 1e-4 and in bfloat16 to a stated
tolerance; then the objective's values and gradients on the card against those on the CPU.
"""

import time
from typing import Any

import torch
import transformers
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from dynamicpo.core.choices import LOSSES, LOSSES_WITHOUT_REFERENCE
from dynamicpo.objective import preference_losses
from dynamicpo.scoring import Row, answer_logps
from tests.gpu.models import device, lastfm_like_rows

VOCABULARY = 512
HIDDEN = 128
FLOAT32_TOLERANCE = 1e-4
# bfloat16 has 8 bits of mantissa: a step of 2^-8 of a log-probability near -30 is .1.
BFLOAT16_TOLERANCE = 0.35
LLAMA_LIKE = {
    "hidden_size": HIDDEN,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 2048,
}


def architectures() -> dict[str, transformers.PretrainedConfig]:
    """A tiny configuration of each architecture that shares prompts.

    All have heads of 64 dimensions.
    """
    gemma = {**LLAMA_LIKE, "head_dim": 64}
    return {
        "llama": transformers.LlamaConfig(**LLAMA_LIKE),
        "qwen2": transformers.Qwen2Config(**LLAMA_LIKE),
        "qwen3": transformers.Qwen3Config(**gemma),
        "mistral": transformers.MistralConfig(**LLAMA_LIKE, sliding_window=None),
        "gemma": transformers.GemmaConfig(**gemma),
        "gpt2": transformers.GPT2Config(
            n_embd=HIDDEN,
            n_layer=2,
            n_head=2,
            vocab_size=VOCABULARY,
            n_positions=2048,
            attn_pdrop=0.0,
            embd_pdrop=0.0,
            resid_pdrop=0.0,
        ),
    }


def scores_and_gradient(
    model: nn.Module, rows: list[Row], backend: str
) -> tuple[Tensor, dict[str, Tensor]]:
    """Log-probabilities (B, A), and the gradient of their weighted sum by every weight.

    On the CPU, float32.
    """
    model.zero_grad()
    logps = answer_logps(model, rows, backend)
    weights = torch.linspace(-1, 1, logps.numel(), device=logps.device).view(logps.shape)
    (logps * weights).sum().backward()
    gradients = {
        # A copy: moving the model moves its gradients in place.
        name: parameter.grad.to("cpu", torch.float32, copy=True)
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }
    return logps.detach().float().cpu(), gradients


def with_adapter(model: nn.Module) -> nn.Module:
    """The model with LoRA whose second factor is not zero, so that every product counts."""
    config = LoraConfig(task_type="CAUSAL_LM", r=8, lora_alpha=32, target_modules="all-linear")
    adapted = get_peft_model(model, config)
    generator = torch.Generator().manual_seed(1)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.data.copy_(0.02 * noise)
    return adapted


def largest_difference(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """The largest difference of two gradients.

    It is divided by the largest entry of the same weight's gradient.
    """
    worst = 0.0
    for name, gradient in one.items():
        scale = float(gradient.abs().max()) or 1.0
        worst = max(worst, float((gradient - other[name]).abs().max()) / scale)
    return worst


def compare(
    name: str, config: transformers.PretrainedConfig, backends: list[str], lora: bool = False
) -> dict[str, Any]:
    """An architecture: every backend and precision against float32 on the CPU, the plain way."""
    rows = lastfm_like_rows(3, 7, VOCABULARY, seed=1)
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(
        config, attn_implementation="sdpa"
    ).float()
    if lora:
        model = with_adapter(model)
    expected, expected_gradient = scores_and_gradient(model, rows, "plain")
    model = model.to(device())
    report: dict[str, Any] = {}
    for backend in backends:
        started = time.perf_counter()
        logps, gradient = scores_and_gradient(model, rows, backend)
        first_seconds = time.perf_counter() - started
        with torch.autocast(device().type, dtype=torch.bfloat16):
            half_logps, half_gradient = scores_and_gradient(model, rows, backend)
        report[backend] = {
            "float32_logps": float((logps - expected).abs().max()),
            "float32_gradient": largest_difference(expected_gradient, gradient),
            "bfloat16_logps": float((half_logps - expected).abs().max()),
            "bfloat16_gradient": largest_difference(expected_gradient, half_gradient),
            "first_call_seconds": first_seconds,
        }
    worst = max(part["float32_logps"] for part in report.values())
    worst_gradient = max(part["float32_gradient"] for part in report.values())
    worst_half = max(part["bfloat16_logps"] for part in report.values())
    report["passed"] = (
        worst <= FLOAT32_TOLERANCE * float(expected.abs().max())
        and worst_gradient <= 1e-3
        and worst_half <= BFLOAT16_TOLERANCE
    )
    print(
        f"{name}: {'ok' if report['passed'] else 'FAILED'} "
        f"{worst:.1e} {worst_gradient:.1e} {worst_half:.1e}"
    )
    return report


def objective_difference(loss: str, dynamic: bool) -> float:
    """The largest difference of losses and gradients between the card and the CPU.

    4,096 rows with K = 15.
    """
    num_negatives = 1 if loss == "dpo" else 15
    generator = torch.Generator().manual_seed(3)
    chosen = -20 + 4 * torch.randn(4096, generator=generator)
    rejected = -24 + 6 * torch.randn(4096, num_negatives, generator=generator)
    noise = torch.randn(4096, 1 + num_negatives, generator=generator)
    results = []
    for place in (torch.device("cpu"), device()):
        policy_chosen = chosen.to(place, copy=True).requires_grad_()
        policy_rejected = rejected.to(place, copy=True).requires_grad_()
        reference: tuple[Tensor, ...] = ()
        if loss not in LOSSES_WITHOUT_REFERENCE:
            reference = (
                (chosen + noise[:, 0]).to(place),
                (rejected + noise[:, 1:]).to(place),
            )
        result = preference_losses(
            policy_chosen, policy_rejected, *reference, loss=loss, dynamic=dynamic
        )
        result.losses.sum().backward()
        parts = (result.losses, result.betas, policy_chosen.grad, policy_rejected.grad)
        results.append([part.detach().cpu() for part in parts])
    return max(float((a - b).abs().max()) for a, b in zip(*results, strict=True))


def run(tiny: bool) -> dict[str, Any]:
    """All of it; `tiny` leaves out what a CPU can't do (FlexAttention's backward pass)."""
    # float32 products in TF32 would differ by 1e-3, from the plain way as well.
    torch.backends.cuda.matmul.allow_tf32 = False
    backends = ["plain", "sdpa"] + (["flex"] if torch.cuda.is_available() else [])
    scoring = {}
    for name, config in architectures().items():
        if tiny and name not in ("llama", "gpt2"):
            continue
        try:
            scoring[name] = compare(name, config, backends)
        except Exception as error:  # one architecture failing must not hide the others
            scoring[name] = {"passed": False, "error": f"{type(error).__name__}: {error}"[:500]}
            print(f"{name}: {scoring[name]['error']}")
    try:
        scoring["llama with lora"] = compare(
            "llama with lora", architectures()["llama"], backends, lora=True
        )
    except Exception as error:
        scoring["llama with lora"] = {"passed": False, "error": f"{error}"[:500]}
    objective = {
        f"{loss}{'+dynamicpo' if dynamic else ''}": objective_difference(loss, dynamic)
        for loss in LOSSES
        for dynamic in (False, True)
    }
    passed = all(part["passed"] for part in scoring.values()) and max(objective.values()) < 1e-4
    return {"passed": passed, "scoring": scoring, "objective": objective}
