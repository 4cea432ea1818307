r"""A dual encoder on photographs, no part of it frozen: as declared, and with same-picture rules, S-ITC and GRIT.

It starts from the model that the two frozen encoders of ``truepair[small]`` and trained heads make. One epoch over the
photographs of Flickr8k, one of the five captions a visit, three seeds; figures by the usual protocol, and with the
matches that people found. The first epoch of GRIT has random batches, so its arms want two:

    truepair finetune retrieval photos --run-folder runs/photos-128 --data.sources '[dataset_flickr8k.json]' \
        --data.transform.size 128
    python experiments/unfrozen_photos.py --data dataset_flickr8k.json --judgements human_judgements.jsonl
    python experiments/unfrozen_photos.py ... --runs runs/unfrozen-2 --epochs 2 --size 96 --arms 'as declared' GRIT
"""

import argparse
import json
from pathlib import Path
from statistics import mean, stdev

from truepair.cli.arguments import find_recipe, read_recipe
from truepair.evaluation.metrics import RetrievalProtocol
from truepair.methods.recipe import PretrainRecipe
from truepair.tasks.evaluation import EvaluateConfig, evaluate_model
from truepair.tasks.pretraining import pretrain

SAME = "[{detector: same_image, action: relabel}, {detector: same_caption, action: relabel}]"
RULES = ["--relations.rules", SAME]

S_ITC = ["--objectives.itc.smoothing", "0.1"]
GRIT = ["--sampler.kind", "grit"]
ARMS = {
    "as declared": ["--relations.rules", "[]"],
    "S-ITC 0.1": [*RULES, *S_ITC],
    "GRIT": [*RULES, *GRIT],
    "GRIT, S-ITC 0.1": [*RULES, *GRIT, *S_ITC],
}

SETTINGS = {
    "model.freeze_image": "false",
    "model.freeze_text": "false",
    "model.cache_images": "false",
    "model.cache_captions": "false",
    "model.image_checkpoint": "null",
    "model.text_checkpoint": "null",
    "data.transform.flip": "0.5",
    "text.tokenizer": "model",
    "text.max_length": "0",
    "optimizer.learning_rate": "1e-4",
    "optimizer.warmup_steps": "20",
    "loop.workers": "0",
    "loop.keep_checkpoints": "1",
}


def recipe_of(arm: str, seed: int, options: argparse.Namespace) -> PretrainRecipe:
    """What one run trains."""
    fields = SETTINGS | {"data.sources": json.dumps([options.data]), "model.checkpoint": options.start}
    fields |= {"loop.seed": str(seed), "loop.epochs": str(options.epochs), "data.transform.size": str(options.size)}
    words = [word for name, value in fields.items() for word in (f"--{name}", value)]
    return read_recipe(PretrainRecipe, [find_recipe("photos", "retrieval")], [*words, *ARMS[arm]], command="unfrozen")


def figures(model: Path, data: str, judgements: str | None) -> list[float]:
    """R@1, R@5 and R@10 of pictures, then of captions, in percent: of own captions, or with what people judged."""
    protocol = RetrievalProtocol(rerank=0)
    config = EvaluateConfig(data=data, validation_split="", judgements=judgements, evaluation=protocol)
    found = evaluate_model(model, config, print).ways["similarity"]
    sides = (found.i2t, found.t2i) if judgements else (found.naive_i2t, found.naive_t2i)
    return [100 * recall.value for side in sides for recall in (side.recall_at_1, side.recall_at_5, side.recall_at_10)]


def main() -> None:
    """Train what is not there yet, and print the figures of all runs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="dataset_flickr8k.json")
    parser.add_argument("--judgements", default="human_judgements.jsonl")
    parser.add_argument("--start", default="runs/photos-128/model")
    parser.add_argument("--runs", type=Path, default=Path("runs/unfrozen"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", default=list(ARMS))
    parser.add_argument("--epochs", type=int, default=1, help="GRIT's first epoch has random batches: give it two")
    parser.add_argument("--size", type=int, default=128, help="of the photographs, in pixels")
    parser.add_argument("--train-only", action="store_true")
    arguments = parser.parse_args()
    folders = {}
    for seed in arguments.seeds:
        for arm in arguments.arms:
            folder = folders[arm, seed] = arguments.runs / f"{arm} {seed}".replace(", ", "-").replace(" ", "-")
            if not (folder / "model").exists():
                pretrain(recipe_of(arm, seed, arguments), folder, print)
    if arguments.train_only:
        return
    for title, judgements in (("usual protocol", None), ("with people's matches", arguments.judgements)):
        print(f"{title}: R@1, R@5, R@10 of pictures, of captions; mean and standard deviation over seeds")
        models = {"the start": [Path(arguments.start)]}
        models |= {arm: [folders[arm, seed] / "model" for seed in arguments.seeds] for arm in arguments.arms}
        for name, of_seeds in models.items():
            columns = zip(*(figures(model, arguments.data, judgements) for model in of_seeds), strict=True)
            shown = [f"{mean(of):.1f}" + (f" +- {stdev(of):.1f}" if len(of) > 1 else "") for of in columns]
            print(f"  {name}: {', '.join(shown)}")


if __name__ == "__main__":
    main()
