"""Mining a whole training set for false negatives, into a ledger that any later run reads."""

from pathlib import Path

import torch

from truepair.mining.evidence_model import EvidenceModel
from truepair.mining.evidence_tables import EvidenceTables
from truepair.mining.offline import MinedPairs, MiningConfig, mine_pairs
from truepair.mining.pair_truth import PairTruth
from truepair.mining.proposals import Declared
from truepair.mining.refinement import Refinement
from truepair.relations.actions import Relabel, Swap
from truepair.relations.ledger import Ledger
from truepair.tasks.frozen_inputs import frozen_inputs
from truepair.training.build import Say
from truepair.training.recipe import PretrainRecipe


def mine(
    recipe: PretrainRecipe, judge: Path, run_folder: Path, say: Say, config: MiningConfig | None = None
) -> MinedPairs:
    """Record the probable false negatives among a recipe's training pairs.

    The ledger, ``ledger/`` in the run folder, is written anew. Each row counts with its first caption. Above ``high``
    the action is "relabel", from ``low`` to there "swap".

    Args:
        recipe: names the pairs, and the frozen encoders that the judge knows.
        judge: folder that ``truepair judge`` wrote.
        run_folder: where the ledger goes.
        say: prints a line.
        config: what counts.

    Raises:
        CheckpointError: the judge is missing, or was fitted on other encoders.
        ConfigError: the recipe caches no frozen features.
    """
    config = config or MiningConfig()
    model, refinement = EvidenceModel.load(judge), Refinement.load(judge)
    inputs = frozen_inputs(recipe, say)
    declared = Declared.of_table(inputs.table)
    mined = mine_pairs(model, refinement, EvidenceTables.of_run(inputs), declared, config)
    sure = mined.scores >= config.high
    caption_ids = torch.tensor([ids[0] for ids in inputs.table.rows["caption_ids"]])
    ledger = Ledger(run_folder / "ledger")
    ledger.load_state_dict({"parts": 0})  # what an earlier call found is gone
    for action, chosen in ((Relabel().name, sure), (Swap().name, ~sure)):
        ledger.record(
            declared.image_ids[mined.images[chosen]],
            caption_ids[mined.captions[chosen]],
            mined.scores[chosen],
            detector=f"mined:{mined.fingerprint[:12]}",
            action=action,
            epoch=0,
        )
    ledger.flush()
    say(
        f"{int(sure.sum()):,} undeclared pairs of {inputs.table.name} match with a probability of at least "
        f"{config.high:g}, {int((~sure).sum()):,} more of at least {config.low:g}: {ledger.folder}"
    )
    truth = PairTruth.from_table(inputs.table)
    if truth is not None:
        hidden = hidden_matches(truth, declared)
        for least in (config.high, config.low):
            say(_known(mined.above(least), truth, declared, hidden, least))
    return mined


def hidden_matches(truth: PairTruth, declared: Declared) -> int:
    """How many undeclared (image row, caption row) cells are known to match."""
    every = torch.arange(len(declared))
    total = 0
    for row in every.tolist():
        true = truth.matches(torch.full_like(every, row), declared.caption_keys)
        total += int((true & ~declared.known(every[row], every)).sum())
    return total


def _known(found: MinedPairs, truth: PairTruth, declared: Declared, hidden: int, least: float) -> str:
    right = int(found.matches(truth, declared).sum())
    precision = f"{right / len(found):.0%} of them do" if len(found) else "there are none"
    return f"by the known truth, from {least:g} on: {precision}, {right / max(hidden, 1):.0%} of {hidden:,} are found"
