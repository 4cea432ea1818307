"""How hard and how false the negatives of random and of grouped batches are, for one trained model.

Usage: python experiments/grit_batches.py MODEL_FOLDER [--seeds 5] [--quantiles 1 0.9 0.5]

MODEL_FOLDER is the ``model`` folder of a run on the bundled sample (``truepair train sample``). Its features of the
training drawings are collected as in a random epoch; then the batches of that epoch and those of the next, grouped one
are compared, for each quantile of the hardness dial. One JSON line a row.
"""

import argparse
import json
from itertools import product
from pathlib import Path

import numpy as np
import torch

from truepair.cli.arguments import find_recipe, read_recipe
from truepair.data.identity import concept_labels, match_keys
from truepair.data.splits import build_tables
from truepair.methods.caches import StateCaches
from truepair.methods.recipe import PretrainRecipe
from truepair.models.fusion.gallery import encode_captions, encode_images
from truepair.models.open import open_model
from truepair.sampling.batches import hardest_similarity, shared_label_rate
from truepair.sampling.grouped import GroupedBatchSampler, GroupedConfig
from truepair.sampling.hardness import HardnessConfig
from truepair.sampling.known import KnownMatches

BATCH = 128


def main() -> None:
    """Print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--quantiles", type=float, nargs="+", default=[1.0])
    arguments = parser.parse_args()
    recipe = read_recipe(PretrainRecipe, [find_recipe("sample")], [], command="grit_batches")
    trained = open_model(arguments.model)
    model, collator = trained.model.eval(), trained.preprocessing.collator()
    table, cache = StateCaches(recipe, trained, print).images(build_tables(recipe.data).train)
    assert cache is not None, "the recipe 'sample' caches image states"
    images = encode_images(model, (cache[i : i + 256] for i in range(0, len(table), 256)), are_states=True).features
    texts = encode_captions(model, [captions[0] for captions in table.rows["captions"]], collator.encode).features
    labels, keys = concept_labels(table), match_keys(table, recipe.data.captions)
    assert labels is not None, "the bundled sample states its concepts"
    for quantile, known, seed in product(arguments.quantiles, (False, True), range(arguments.seeds)):
        config = GroupedConfig(hardness=HardnessConfig(quantile=quantile)).scaled(len(table), BATCH)
        matches = KnownMatches(keys) if known else None
        sampler = GroupedBatchSampler(len(table), BATCH, config=config, seed=seed, known=matches)
        for kind in ("random", "grouped"):
            batches = [torch.tensor(batch) for batch in sampler]
            hardest = torch.cat([hardest_similarity(images[batch], texts[batch]) for batch in batches]).mean()
            false = shared_label_rate([batch.numpy().astype(np.int64) for batch in batches], labels)
            row = {"batches": kind, "known_apart": known, "seed": seed, "quantile": quantile}
            row["search_space"] = config.search_space
            print(json.dumps(row | {"hardest_similarity": round(float(hardest), 4), "false_negative_rate": false}))
            for batch in batches:
                sampler.collect(batch, images[batch], texts[batch])


if __name__ == "__main__":
    main()
