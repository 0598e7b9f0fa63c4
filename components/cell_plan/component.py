"""KFP component: the cells of the collapse study."""

from kfp import dsl

from dynamicpo_components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def plan_cells(
    num_negatives: str = "1,5,19",
    objectives: str = "dmpo,sdpo",
    variants: str = "plain,dynamicpo",
    seeds: str = "0,1,2",
) -> list:
    """List the cells that the collapse study trains, each once.

    With one negative DMPO and S-DPO both equal DPO, and either half of DynamicPO equals all of it
    or none: such cells are trained once.

    Args:
        num_negatives: Numbers of negatives K, with commas.
        objectives: Base objectives [dmpo, mppo, sdpo, simpo], with commas.
        variants: DynamicPO off, on, or one half of it [plain, dynamicpo, selection, beta], with
            commas.
        seeds: Seeds of preference training, with commas.

    Returns:
        For each cell its name, and the settings of preference training that it stands for: cell,
        loss, dynamic, ablation, num_negatives, seed.
    """
    arguments = dict(locals())
    from dynamicpo.core.config import GridConfig
    from dynamicpo.runs.component_artifacts import config_of
    from dynamicpo.study.grid import plan_cells as run

    return run(config_of(GridConfig, arguments))
