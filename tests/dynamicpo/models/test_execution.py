"""Precision and threads with which a model runs."""

import pytest
import torch

from dynamicpo.models import execution
from dynamicpo.models.backbones import COMPACT, BaseModelSpec


def test_precision_follows_the_processor_unless_it_is_given_or_the_backbone_is_compact(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for has_bfloat16, precision in ((True, "bfloat16"), (False, "float32")):
        capabilities = {"avx512_bf16": has_bfloat16}
        monkeypatch.setattr(torch.cpu, "get_capabilities", capabilities.copy)
        assert execution.choose_precision("auto", "smollm2-135m") == precision
        assert execution.choose_precision("auto", COMPACT) == "float32"
        assert execution.choose_precision("bfloat16", COMPACT) == "bfloat16"
    # Other architectures have no such entry.
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    assert execution.choose_precision("auto", "smollm2-135m") == "float32"


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_products_have_the_precision_of_the_base_model(precision: str) -> None:
    weight = torch.ones(2, 2, device=execution.device())
    with execution.execution_context(BaseModelSpec("smollm2-135m", precision=precision)):
        assert (weight @ weight).dtype == getattr(torch, precision)
    assert (weight @ weight).dtype == torch.float32


def test_the_compact_backbone_runs_in_one_thread_and_leaves_their_number_as_it_was() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with execution.execution_context(BaseModelSpec(COMPACT)):
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 3
        with execution.execution_context(BaseModelSpec("smollm2-135m")):
            assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
