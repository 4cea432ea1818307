"""A judge fitted on clean pairs, and a whole training set mined by it."""

from pathlib import Path

import numpy as np
import torch

from truepair.data.left_out import SKIPPED, LeftOut
from truepair.data.splits import build_tables
from truepair.engine.distributed.processes import own_device
from truepair.errors import ConfigError
from truepair.evaluation.truth import Truth
from truepair.files import writing_folder, writing_together
from truepair.judges.base import JudgeInputs
from truepair.judges.evidence import JUDGE_SEAL, EvidenceModel, EvidenceTables
from truepair.judges.evidence_fit import EvidenceConfig, fit_evidence
from truepair.methods.caches import StateCaches
from truepair.methods.recipe import PretrainRecipe
from truepair.methods.student import Say, build_student
from truepair.mining.graph import Declared
from truepair.mining.mine import MiningConfig, mine_pairs, mining_fingerprint
from truepair.mining.refinement import Refinement, fit_refinement
from truepair.relations.ledger import Ledger
from truepair.relations.pairs import PairSet

_MEANS = (
    "of each picture and caption the mean of its states is kept: a run that trains on the states themselves encodes "
    "them again; one that has trained on them before leaves them to this command"
)


def frozen_inputs(recipe: PretrainRecipe, folder: Path, say: Say) -> JudgeInputs:
    """What a run of the recipe would give its judge, without the run; of frozen states, their means are kept alone.

    Args:
        recipe: names the pairs and the frozen encoders.
        folder: takes the list of what is left out.
        say: prints a line.

    Raises:
        ConfigError: the recipe caches no frozen features.
        DataError: a source cannot be read.
    """
    if not recipe.model.cache_images or not recipe.model.cache_captions:
        raise ConfigError("this judge compares frozen features; set model.cache_images and model.cache_captions")
    tables = build_tables(recipe.data)
    for line in tables.notes:
        say(line)
    left_out = LeftOut(say, folder / SKIPPED)
    left_out.rows(tables.train)
    student = build_student(recipe, tables.train, lambda _: None)
    model, preprocessing = student.model, student.preprocessing
    table = tables.read_by(preprocessing.tokenization).train
    model.to(own_device(cpu=recipe.loop.cpu))
    caches = StateCaches(recipe, student, left_out, means=True)
    table, images = caches.images(table)
    texts = caches.captions(table.captions())
    if images is not None and images.views[0].shape[0] == 1 and not recipe.model.pool_images:
        say(_MEANS)
    return JudgeInputs(
        table=table,
        preprocessing=preprocessing,
        model=model,
        image_cache=images,
        caption_cache=texts,
        pooled=True,
    )


def mine(
    recipe: PretrainRecipe, judge: Path, run_folder: Path, say: Say, config: MiningConfig | None = None
) -> PairSet:
    """Record the probable false negatives among a recipe's training pairs.

    The ledger, ``ledger/`` in the run folder, holds all pairs with a probability of at least ``low``. It takes the
    place of a former one when it is whole. Each row counts with its first caption.

    Args:
        recipe: names the pairs, and the frozen encoders that the judge knows.
        judge: folder that ``truepair judge`` wrote.
        run_folder: where the ledger goes.
        say: prints a line.
        config: what counts.

    Returns:
        Cells (image row, caption row) of the training table, with their probabilities.

    Raises:
        CheckpointError: the judge is missing, or was fitted on other encoders.
        ConfigError: the recipe caches no frozen features.
        DataError: the disk refuses; a former ledger stays.
    """
    config = config or MiningConfig()
    model, refinement = EvidenceModel.load(judge), Refinement.load(judge)
    inputs = frozen_inputs(recipe, run_folder, say)
    declared = Declared.of_table(inputs.table)
    tables = EvidenceTables.of_run(inputs)
    mined = mine_pairs(model, refinement, tables, declared, config, say)
    caption_ids = torch.from_numpy(inputs.table.caption_ids[inputs.table.first_captions])
    folder = run_folder / "ledger"
    with writing_folder(folder) as aside, Ledger(aside) as ledger:
        ledger.record(
            declared.image_ids[mined.rows],
            caption_ids[mined.columns],
            mined.values,
            judge=f"mined:{mining_fingerprint(model, refinement, tables)[:12]}",
            time=np.datetime64("now", "ms"),
        )
    sure = mined.values >= config.high
    say(
        f"{int(sure.sum()):,} undeclared pairs of {inputs.table.name} match with a probability of at least "
        f"{config.high:g}, {int((~sure).sum()):,} more of at least {config.low:g}: {folder}"
    )
    say(
        "a run reads them by the rule {detector: recorded, "
        f"ledger: {folder}, zone: match, low: {config.low:g}, high: {config.high:g}, action: relabel}}"
    )
    truth = Truth.from_table(inputs.table)
    if truth is not None:
        hidden = len(truth.hidden_pairs(declared.image_ids, declared.caption_keys))
        for least in (config.high, config.low):
            found = mined.where(mined.values >= least)
            right = int(truth.matches(found.rows, declared.caption_keys[found.columns]).sum())
            say(_known(len(found), right, hidden, least))
    return mined


def _known(found: int, right: int, hidden: int, least: float) -> str:
    precision = f"{right / found:.0%} of them do" if found else "there are none"
    return f"by the known truth, from {least:g} on: {precision}, {right / max(hidden, 1):.0%} of {hidden:,} are found"


def fit_judge(recipe: PretrainRecipe, folder: Path, say: Say, config: EvidenceConfig | None = None) -> EvidenceModel:
    """Fit the evidence judge on the training pairs of a recipe, and the refinement that mining a whole table needs.

    Args:
        recipe: names clean data with a ``group`` column, and the frozen encoders that the judge compares.
        folder: where the judge goes; ``ecm.judge`` asks for it with kind "evidence" and this checkpoint;
            :func:`truepair.tasks.mining.mine` reads it too.
        say: prints a line.
        config: how it is fitted.

    Raises:
        ConfigError: the recipe caches no frozen features.
        DataError: the pairs declare no groups, or too few.
    """
    inputs = frozen_inputs(recipe, folder, say)
    table, tables = inputs.table, EvidenceTables.of_run(inputs)
    judge = fit_evidence(tables, table, config)
    refinement = fit_refinement(judge, tables, table, evidence=config)
    with writing_together(folder, JUDGE_SEAL) as aside:
        judge.save(aside)
        refinement.save(aside)
    say(f"a judge was fitted on {len(table):,} clean pairs from {table.name}: {folder}")
    return judge
