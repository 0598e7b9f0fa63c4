"""The cells of the collapse study."""

import pytest

from dynamicpo.core.config import GridConfig, PreferenceConfig
from dynamicpo.core.errors import ConfigError
from dynamicpo.runs.parameters import check_parameters
from dynamicpo.study.grid import plan_cells
from dynamicpo.study.kinds import kind_at


def names(**fields: str) -> list[str]:
    return [cell["cell"] for cell in plan_cells(GridConfig(**fields))]


def test_cells_that_coincide_at_one_negative_are_listed_once() -> None:
    lists = {"num_negatives": "5,1", "variants": "none,full,selection,beta", "seeds": "3"}
    at_five = [
        f"{front}{loss}-k5-s3"
        for loss in ("dmpo", "sdpo")
        for front in ("", "dynamicpo-", "selection-", "beta-")
    ]
    assert names(**lists) == ["dpo-k1-s3", "dynamicpo-dpo-k1-s3", *at_five]


def test_mppo_and_simpo_are_themselves_at_one_negative() -> None:
    assert names(num_negatives="1", objectives="dmpo,mppo,simpo", variants="none", seeds="0") == [
        "dpo-k1-s0",
        "mppo-k1-s0",
        "simpo-k1-s0",
    ]


def test_seeds_come_one_after_the_other() -> None:
    assert names(num_negatives="2", objectives="dmpo", seeds="0,1") == [
        f"{front}dmpo-k2-s{seed}" for seed in (0, 1) for front in ("", "dynamicpo-")
    ]


def test_a_cell_is_a_setting_of_preference_training() -> None:
    for cell in plan_cells(GridConfig(variants="none,full,selection,beta")):
        settings = {name: value for name, value in cell.items() if name != "cell"}
        config = PreferenceConfig(**settings)
        assert kind_at(config.loss, config.dynamic, config.num_negatives) == (
            config.loss,
            config.dynamic,
            config.num_negatives,
        )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"num_negatives": "0,1"},
            "num_negatives: must be whole numbers >= 1 with commas, got '0,1'",
        ),
        ({"num_negatives": "1;5"}, "num_negatives: must be whole numbers"),
        (
            {"num_negatives": [1, 5]},
            r"num_negatives: must be whole numbers >= 1 with commas, got \[1, 5\]",
        ),
        ({"num_negatives": "5,05"}, "num_negatives: must be a list with commas, each entry once"),
        ({"seeds": ""}, "seeds: must be whole numbers >= 0"),
        ({"seeds": "-1"}, "seeds: must be whole numbers >= 0"),
        ({"objectives": "dmpo,sdop"}, "objectives: unknown name 'sdop'.*Did you mean 'sdpo'"),
        ({"objectives": "dpo"}, "objectives: unknown name 'dpo'"),
        ({"variants": "none,none"}, "variants: must be a list with commas, each entry once"),
        ({"variants": ""}, "variants: must be a list with commas"),
        ({"seeds": "x", "variants": "on"}, "(?s)variants: unknown name 'on'.*seeds: must be"),
    ],
    ids=str,
)
def test_bad_lists_are_named(fields: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        GridConfig(**fields)


def test_studies_keep_the_last_weights() -> None:
    with pytest.raises(ConfigError, match="^preference_deliver: must be 'last' in a study"):
        check_parameters("negative_scaling", {"preference_settings": {"deliver": "best"}})
    check_parameters("training", {"preference_settings": {"deliver": "best"}})
