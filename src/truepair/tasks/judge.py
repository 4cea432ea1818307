"""Fitting a judge of undeclared pairs on clean ones, whose groups are declared."""

from pathlib import Path

from truepair.mining.evidence_fit import EvidenceConfig, fit_evidence
from truepair.mining.evidence_model import EvidenceModel
from truepair.mining.evidence_tables import EvidenceTables
from truepair.mining.refinement_fit import fit_refinement
from truepair.tasks.frozen_inputs import frozen_inputs
from truepair.training.build import Say
from truepair.training.recipe import PretrainRecipe


def fit_judge(recipe: PretrainRecipe, folder: Path, say: Say, config: EvidenceConfig | None = None) -> EvidenceModel:
    """Fit the evidence judge on the training pairs of a recipe, and the refinement that mining a whole table needs.

    Args:
        recipe: names clean data with a ``group`` column, and the frozen encoders that the judge compares.
        folder: where the judge goes; ``ecm.discriminator`` asks for it with kind "evidence" and this checkpoint;
            :func:`truepair.tasks.mining.mine` reads it too.
        say: prints a line.
        config: how it is fitted.

    Raises:
        ConfigError: the recipe caches no frozen features.
        DataError: the pairs declare no groups, or too few.
    """
    inputs = frozen_inputs(recipe, say)
    table, tables = inputs.table, EvidenceTables.of_run(inputs)
    judge = fit_evidence(tables, table, config)
    refinement = fit_refinement(judge, tables, table, evidence=config)
    judge.save(folder)
    refinement.save(folder)
    say(f"a judge was fitted on {len(table):,} clean pairs from {table.name}: {folder}")
    return judge
