"""A shared prompt gives what each answer alone gives: values, gradients, on every architecture."""

import logging

import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.testing import assert_close

from dynamicpo.core.errors import ConfigError, DataError, ShapeError
from dynamicpo.core.records.rows import Row
from dynamicpo.scoring import backend_choice, sdpa_attention
from dynamicpo.scoring.shared_prefix import answer_logps, score_rows, token_logps
from dynamicpo.scoring.transformers_internals import ATTENTION_NAME
from tests.fixtures.scoring import CONFIGS, VOCABULARY, defined_logps, random_rows, tiny_model


def gradients(model: nn.Module, logps: Tensor) -> list[Tensor]:
    """Of a weighted sum, so that no two answers' gradients cancel by chance."""
    weights = torch.randn(logps.shape, generator=torch.Generator().manual_seed(1))
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    return list(torch.autograd.grad((logps * weights).sum(), trained))


def assert_same_gradients(actual: list[Tensor], expected: list[Tensor]) -> None:
    largest = max(float(gradient.norm()) for gradient in expected)
    assert largest > 0
    for ours, theirs in zip(actual, expected, strict=True):
        assert float((ours - theirs).norm()) <= 1e-4 * max(float(theirs.norm()), 1e-3 * largest)


def with_lora(model: nn.Module) -> nn.Module:
    """LoRA on all linear layers, with weights that are not zero."""
    model = get_peft_model(
        model, LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear")
    )
    torch.manual_seed(2)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(weight, std=0.1)
    return model


@pytest.mark.parametrize("backend", ["sdpa", "plain"])
@pytest.mark.parametrize("name", CONFIGS)
def test_every_architecture_scores_as_defined(name, backend):
    model, rows = tiny_model(name), random_rows(4, 5)
    expected = defined_logps(model, rows)
    actual = answer_logps(model, rows, backend)
    assert actual.dtype == torch.float32
    assert_close(actual, expected, atol=1e-5, rtol=1e-6)
    assert_same_gradients(gradients(model, actual), gradients(model, expected))


@pytest.mark.parametrize("name", CONFIGS)
def test_every_architecture_gives_lora_the_same_gradients(name):
    model, rows = with_lora(tiny_model(name)), random_rows(4, 5)
    expected = answer_logps(model, rows, "plain")
    actual = answer_logps(model, rows, "sdpa")
    assert_close(actual, expected, atol=1e-5, rtol=1e-6)
    assert_same_gradients(gradients(model, actual), gradients(model, expected))


def test_long_rows_are_scored_by_fused_attention_with_the_same_gradients(monkeypatch):
    monkeypatch.setattr(sdpa_attention, "MAX_PRODUCT_WEIGHTS", 0)
    model, rows = tiny_model(), random_rows(4, 5)
    expected = answer_logps(model, rows, "plain")
    actual = answer_logps(model, rows, "sdpa")
    assert_close(actual, expected, atol=1e-5, rtol=1e-6)
    assert_same_gradients(gradients(model, actual), gradients(model, expected))


@pytest.mark.parametrize("num_answers", [1, 2, 65])
@pytest.mark.parametrize("sizes", [(1,), (1, 2, 9)])
def test_any_number_of_answers(num_answers, sizes):
    model, rows = tiny_model(), random_rows(3, num_answers, sizes)
    expected = answer_logps(model, rows, "plain")
    actual = answer_logps(model, rows, "sdpa")
    assert_close(actual, expected, atol=1e-5, rtol=1e-6)
    assert_same_gradients(gradients(model, actual), gradients(model, expected))


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_changes_nothing(reentrant):
    model, rows = with_lora(tiny_model()).train(), random_rows(3, 4)
    expected = gradients(model, answer_logps(model, rows, "sdpa"))
    model.enable_input_require_grads()
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    logps, weights = (
        answer_logps(model, rows, "sdpa"),
        torch.randn(3, 4, generator=torch.Generator().manual_seed(1)),
    )
    (logps * weights).sum().backward()
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    assert_same_gradients([weight.grad for weight in trained], expected)


def test_4_bit_weights(tmp_path):
    pytest.importorskip("bitsandbytes")
    config = {
        **CONFIGS["llama"].to_dict(),
        "hidden_size": 64,
        "head_dim": 16,
        "intermediate_size": 128,
    }  # 4-bit blocks
    tiny_model(config=transformers.LlamaConfig(**config)).save_pretrained(tmp_path)
    nf4 = transformers.BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32
    )
    model = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, quantization_config=nf4, attn_implementation="sdpa", dtype=torch.float32
    )
    assert any("4bit" in type(module).__name__ for module in model.modules())
    model, rows = with_lora(model), random_rows(3, 4)
    expected = answer_logps(model, rows, "plain")
    actual = answer_logps(model, rows, "sdpa")
    assert_close(actual, expected, atol=1e-5, rtol=1e-6)
    assert_same_gradients(gradients(model, actual), gradients(model, expected))


@pytest.mark.parametrize("name", CONFIGS)
def test_flex_gives_the_same(name):
    # Compiled on GPUs only: it takes a C++ compiler and half a minute; the block mask is the same.
    model, rows = tiny_model(name), random_rows(4, 5)
    with torch.no_grad():
        assert_close(
            answer_logps(model, rows, "flex"),
            answer_logps(model, rows, "sdpa"),
            atol=1e-5,
            rtol=1e-6,
        )


def test_bfloat16_products_stay_near_float32():
    model, rows = tiny_model(), random_rows(4, 5)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        actual, plain = answer_logps(model, rows, "sdpa"), answer_logps(model, rows, "plain")
    with torch.no_grad():
        expected = answer_logps(model, rows)
    assert actual.dtype == torch.float32
    assert (
        float((actual - expected).norm())
        <= 1.5 * float((plain - expected).norm())
        <= 0.05 * float(expected.norm())
    )


def test_probabilities_of_all_one_token_answers_sum_to_one():
    row = Row([3, 1, 4], [[token] for token in range(VOCABULARY)])
    assert_close(answer_logps(tiny_model(), [row]).exp().sum(), torch.tensor(1.0))


def test_probabilities_of_continuations_sum_to_their_beginnings():
    model = tiny_model()
    longer = answer_logps(model, [Row([3, 1, 4], [[7, token] for token in range(VOCABULARY)])])
    assert_close(longer.logsumexp(1), answer_logps(model, [Row([3, 1, 4], [[7]])])[0])


def test_answers_do_not_see_each_other():
    model, row = tiny_model(), random_rows(1, 6, (3,))[0]
    reversed_row = Row(row.prompt_ids, list(reversed(row.answer_ids)))
    assert_close(answer_logps(model, [reversed_row]).flip(1), answer_logps(model, [row]))
    assert_close(
        answer_logps(model, [Row(row.prompt_ids, row.answer_ids[2:3])])[0, 0],
        answer_logps(model, [row])[0, 2],
    )


def test_token_budget_changes_nothing():
    model, rows = tiny_model(), random_rows(9, 4)
    expected = answer_logps(model, rows)
    for backend in ("sdpa", "plain"):
        for budget in (1, 60):
            assert_close(answer_logps(model, rows, backend, budget), expected, atol=1e-5, rtol=1e-6)


def test_model_does_as_before_when_no_prompt_is_shared():
    model, rows = tiny_model("mistral"), random_rows(2, 3)
    token_ids = torch.randint(0, VOCABULARY, (2, 9), generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[1] * 9, [0] * 4 + [1] * 5])
    before = model(input_ids=token_ids, attention_mask=mask).logits
    generated = model.generate(
        input_ids=token_ids, attention_mask=mask, do_sample=False, max_new_tokens=5
    )
    answer_logps(model, rows, "sdpa")
    assert torch.equal(model(input_ids=token_ids, attention_mask=mask).logits, before)
    assert torch.equal(
        model.generate(input_ids=token_ids, attention_mask=mask, do_sample=False, max_new_tokens=5),
        generated,
    )


def test_trace_of_our_attention_is_not_saved(tmp_path):
    model = tiny_model()
    answer_logps(model, random_rows(2, 3), "sdpa")
    model.save_pretrained(tmp_path)
    assert ATTENTION_NAME not in (tmp_path / "config.json").read_text()


def test_a_wrapped_model_is_called_as_a_whole():
    class Wrapper(nn.Module):
        calls = 0

        def __init__(self, module: nn.Module) -> None:
            super().__init__()
            self.module = module

        def forward(self, **kwargs: object) -> object:
            Wrapper.calls += 1
            return self.module(**kwargs)

    model, rows = with_lora(tiny_model()), random_rows(2, 3)
    assert_close(answer_logps(Wrapper(model), rows), answer_logps(model, rows))
    assert Wrapper.calls == 1


def test_short_sliding_window_is_scored_the_plain_way_and_logged_once(caplog):
    model = tiny_model(
        config=transformers.MistralConfig(**{**CONFIGS["mistral"].to_dict(), "sliding_window": 8})
    )
    rows = [Row(list(range(2, 14)), [[3, 4, 5], [6]])]
    backend_choice._log_backend.cache_clear()
    with caplog.at_level(logging.INFO):
        first, second = answer_logps(model, rows), answer_logps(model, rows)
    assert_close(first, defined_logps(model, rows), atol=1e-5, rtol=1e-6)
    assert torch.equal(first, second)
    assert len(caplog.messages) == 1
    assert "sliding window (8) is shorter than a prompt with its answer (14 tokens)" in caplog.text
    with pytest.raises(
        ConfigError, match="backend: sdpa can't score this model: its sliding window"
    ):
        answer_logps(model, rows, "sdpa")


def test_unknown_architecture_is_scored_the_plain_way():
    config = transformers.GPTNeoXConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
    )
    model, rows = tiny_model(config=config), random_rows(3, 3)
    assert_close(answer_logps(model, rows), defined_logps(model, rows), atol=1e-5, rtol=1e-6)
    with pytest.raises(ConfigError, match="models of type gpt_neox. Use auto or plain"):
        answer_logps(model, rows, "flex")


def test_more_tokens_than_positions_are_refused():
    with pytest.raises(DataError, match="64 positions of the model.*, got 66 tokens"):
        answer_logps(tiny_model("gpt2"), [Row([1] * 64, [[2, 3, 4]])])
    assert answer_logps(tiny_model("gpt2"), [Row([1] * 62, [[2, 3, 4]])]).isfinite().all()


def test_unusable_requests_are_refused():
    model = tiny_model()
    with pytest.raises(ConfigError, match="backend: unknown name 'flx'.*Did you mean 'flex'"):
        answer_logps(model, random_rows(1, 2), "flx")
    with pytest.raises(ShapeError, match="must have 2 answers"):
        answer_logps(model, [*random_rows(1, 2), *random_rows(1, 3)])
    with pytest.raises(DataError, match="every answer must have a token"):
        answer_logps(model, [Row([1], [[2], []])])


def test_score_rows_keeps_the_order_whatever_the_batches(caplog):
    model, rows = tiny_model().train(), random_rows(20, 4)
    with caplog.at_level(logging.INFO):
        actual = score_rows(model, rows, label="scoring the test")
    assert "scoring the test: 20 rows in" in caplog.text
    assert model.training
    assert not actual.requires_grad
    assert actual.shape == (20, 4)
    for budget in (1, 100):
        assert_close(score_rows(model, rows, budget), actual, atol=1e-5, rtol=1e-6)
    assert_close(score_rows(model, rows[7:9]), actual[7:9], atol=1e-5, rtol=1e-6)


def test_score_rows_turns_dropout_off():
    config = transformers.GPT2Config(
        **{**CONFIGS["gpt2"].to_dict(), "resid_pdrop": 0.5, "attn_pdrop": 0.5}
    )
    model, rows = tiny_model(config=config), random_rows(3, 3)
    expected = score_rows(model, rows)
    assert torch.equal(score_rows(model.train(), rows), expected)
    torch.manual_seed(0)
    assert not torch.allclose(answer_logps(model, rows), expected)


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("name", CONFIGS)
def test_token_logps_are_the_models_own_at_the_chosen_positions(name, frozen):
    model = tiny_model(name)
    model.get_output_embeddings().weight.requires_grad_(not frozen)
    token_ids = torch.randint(2, VOCABULARY, (2, 5), generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    positions = torch.tensor([1, 3, 5, 7])
    prediction_index = torch.tensor([0, 0, 1, 2, 3, 1])
    targets = torch.arange(6) * 7
    logits = model(input_ids=token_ids, attention_mask=mask).logits
    expected = logits.flatten(0, 1).log_softmax(-1)[positions[prediction_index], targets]
    assert_close(
        token_logps(model, token_ids, mask, positions, prediction_index, targets),
        expected,
        atol=1e-5,
        rtol=1e-6,
    )
    assert model(input_ids=token_ids).logits.shape == (2, 5, VOCABULARY), "the hook is gone"


def test_a_model_that_scales_its_logits_is_called_as_it_is():
    names = (
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
    )
    known = CONFIGS["llama"].to_dict()
    config = transformers.GraniteConfig(**{name: known[name] for name in names}, logits_scaling=8.0)
    model, rows = tiny_model(config=config).requires_grad_(False), random_rows(3, 3)
    assert_close(answer_logps(model, rows), defined_logps(model, rows), atol=1e-5, rtol=1e-6)
