"""One `trust_remote_code` for all stages of a pipeline that read the model it makes."""

import pytest

from dynamicpo.runs.settings_check import check_settings


@pytest.mark.parametrize("trusted", [False, True])
@pytest.mark.parametrize("pipeline", ["training", "negative_scaling"])
def test_later_stages_trust_what_fine_tuning_trusts(pipeline: str, trusted: bool) -> None:
    arguments = {"sft_settings": {"trust_remote_code": trusted}}
    checked = check_settings(pipeline, arguments)
    for settings in (checked.sft, checked.preference, checked.evaluation):
        assert settings["trust_remote_code"] is trusted
    # Their own run has named the base.
    assert checked.preference["allow_base_from_manifest"] is True
    assert checked.evaluation["allow_base_from_manifest"] is True
