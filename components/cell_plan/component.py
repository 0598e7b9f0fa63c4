"""KFP component: the cells of the collapse study."""

from typing import Optional

from kfp import dsl

from dynamicpo_components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def plan_cells(
    # Written by dynamicpo_pipelines.signatures
    num_negatives: Optional[str] = None,
    objectives: Optional[str] = None,
    variants: Optional[str] = None,
    seeds: Optional[str] = None,
    settings: dict = {},  # noqa: B006
    # to here.
) -> list:
    """List the cells that the collapse study trains, each once.

    With one negative DMPO and S-DPO both equal DPO, and either half of DynamicPO equals all of it
    or none: such cells are trained once.

    Args:
        num_negatives: Numbers of negatives K, with commas.
        objectives: Base objectives, with commas [dmpo, mppo, sdpo, simpo].
        variants: DynamicPO off, on, or one half of it, with commas [none, full, selection, beta].
        seeds: Seeds of preference training, with commas.
        settings: Other settings by name; those above win.

    Returns:
        For each cell its name, and the settings of preference training that it stands for: cell,
        loss, dynamic, num_negatives, seed.
    """
    from dynamicpo.core.config import GridConfig
    from dynamicpo.runs.component_artifacts import config_of
    from dynamicpo.study.grid import plan_cells as run

    return run(
        config_of(
            GridConfig,
            settings,
            num_negatives=num_negatives,
            objectives=objectives,
            variants=variants,
            seeds=seeds,
        )
    )
