"""From a trained generator for all timesteps to the pipeline folder that a cooperation takes as a partner."""

from pathlib import Path

from pangu.config import Frozen, Recipe
from pangu.contract import GeneratorContract
from pangu.models.sources import read_config
from pangu.models.whole import is_whole_pipeline
from pangu.pipelines.assemble import save_pair
from pangu.pipelines.baselines import assemble_single_stage


class PartnerFolder(Frozen):
    """Where a partner's pipeline folder is."""

    folder: str
    already_done: bool = False


def partner_folder(generator: Path, recipe: Recipe, folder: Path) -> PartnerFolder:
    """Join the generator and its encoders into `folder`, which appears as a whole, or is there already.

    Raises:
        UserError: the generator owns only a part of the range, or was trained with other encoders than the recipe's.
    """
    contract = GeneratorContract.load(generator)
    index = read_config(str(folder), "model_index.json") if folder.is_dir() else None
    found = {} if index is None else index.get("contracts") or {}
    same = {role: GeneratorContract.model_validate(values) for role, values in found.items()} == {
        contract.role: contract
    }
    if same and is_whole_pipeline(folder):
        return PartnerFolder(folder=str(folder), already_done=True)
    save_pair(assemble_single_stage(generator, recipe), folder)
    return PartnerFolder(folder=str(folder))
