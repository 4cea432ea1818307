"""How many false negatives mining a whole table finds: on held-out clean concepts, and on a training set never seen.

Fitted on a share of the clean concepts of the bundled drawings (those with at most six), tested on others of them,
and on all undeclared pairs of the recipe `sample`. Settings were chosen by the held-out clean concepts alone.

    python experiments/mined_pairs.py [SHARE [SEED]]
"""

import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from truepair.cli.arguments import find_recipe, read_recipe
from truepair.evaluation.truth import Truth
from truepair.judges.evidence import EvidenceTables
from truepair.judges.evidence_fit import EvidenceConfig, fit_evidence
from truepair.methods.recipe import PretrainRecipe
from truepair.mining.graph import Declared, PairGraph, exact_graph, graph_of
from truepair.mining.refinement import RefinementConfig, cross_fitted, fit_rounds
from truepair.randomness import stable_hash
from truepair.tasks.mining import frozen_inputs

FOLDS = 3


class Pairs:
    """Pairs of a recipe: features, what is declared, and the truth."""

    def __init__(self, *layers: str, share: float = 1.0, seed: int = 0) -> None:
        recipe = read_recipe(PretrainRecipe, [find_recipe(name) for name in layers], [], command="mined_pairs")
        with tempfile.TemporaryDirectory() as folder:  # for the list of what is left out
            run = frozen_inputs(recipe, Path(folder), print)
        groups = list(run.table.rows["group"])
        chosen = [row for row, name in enumerate(groups) if stable_hash("pick", str(seed), name) < share * 2**63]
        self.tables = EvidenceTables.of_run(run).rows(torch.tensor(chosen))
        self.table = run.table.select(chosen)
        self.declared = Declared.of_table(self.table)
        truth = Truth.from_table(self.table)
        assert truth is not None
        self.truth = truth
        self.hidden = len(truth.hidden_pairs(self.declared.image_ids, self.declared.caption_keys))

    def matches(self, rows: Tensor, columns: Tensor) -> Tensor:
        """The known truth of cells."""
        return self.truth.matches(rows, self.declared.caption_keys[columns])

    def report(self, title: str, graph: PairGraph) -> None:
        """One line of figures; a match that is no candidate counts as never found."""
        used = ~graph.known
        scores, labels = graph.log_odds[used].sigmoid(), self.matches(graph.rows[used], graph.columns[used])
        order = scores.argsort(descending=True)
        precision = labels[order].cumsum(dim=0) / torch.arange(1, len(order) + 1)
        line = f"| {title} | {float(precision[labels[order]].sum()) / self.hidden:.3f} |"
        for wanted in (0.8, 0.9):
            deep = (precision >= wanted).nonzero()[-1:, 0].tolist()
            found = int(labels[order][: deep[0] + 1].sum()) if deep else 0
            line += f" {found / self.hidden:.2f} |"
        for least in (0.5, 0.8):
            above = scores >= least
            right = int((above & labels).sum())
            line += f" {right / max(int(above.sum()), 1):.2f} / {right / self.hidden:.2f} |"
        print(line, flush=True)


def main() -> None:
    """Fit, measure, print a table in Markdown."""
    share = float(sys.argv[1]) if len(sys.argv) > 1 else 1.0
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    clean, target = Pairs("sample", "clean", share=share, seed=seed), Pairs("sample")
    start = time.perf_counter()
    evidence, config = EvidenceConfig(seed=seed), RefinementConfig(seed=seed)
    model = fit_evidence(clean.tables, clean.table, evidence)
    groups = list(clean.table.rows["group"])
    log_odds = cross_fitted(model, clean.tables, groups, evidence, config)
    graph = graph_of(lambda rows, columns: log_odds[rows[:, None], columns], clean.declared, config.neighbours)
    refinement = fit_rounds(graph, clean.matches, config)
    print(f"fitted on {len(clean.table)} pairs, {len(set(groups))} concepts: {time.perf_counter() - start:.0f} s")
    start = time.perf_counter()
    candidates = exact_graph(model, model.spaces.project(target.tables), target.declared, config.neighbours)
    found = refinement.refine(candidates)
    print(f"mined {len(target.table)} pairs with {target.hidden} hidden matches: {time.perf_counter() - start:.1f} s")
    print("| scores | AP | recall at precision 0.8 | at 0.9 | precision / recall at 0.5 | at 0.8 |")
    print("|---|---|---|---|---|---|")
    clean.report("held-out clean concepts, pair by pair", graph)
    clean.report("held-out clean concepts, refined", held_out(graph, clean, groups, config))
    target.report("training set, pair by pair", candidates)
    target.report("training set, refined", found)


def held_out(graph: PairGraph, clean: Pairs, groups: list[str], config: RefinementConfig) -> PairGraph:
    """Each row's edges as scored by a refinement that saw the truth of no pair of its concept."""
    fold = torch.tensor([stable_hash("fold", name) % FOLDS for name in groups])
    parts = []
    for number in range(FOLDS):
        scored = fit_rounds(graph, clean.matches, config, counted=fold != number).refine(graph)
        own = fold[scored.rows] == number
        columns = (scored.rows, scored.columns, scored.log_odds, scored.known)
        parts.append([values[own] for values in columns])
    rows, columns, log_odds, known = (torch.cat(values) for values in zip(*parts, strict=True))
    return replace(graph, rows=rows, columns=columns, log_odds=log_odds, known=known)


if __name__ == "__main__":
    main()
