"""CPU seconds of ``truepair train`` from the start of its process to its first step.

    python benchmarks/start_up.py
    python benchmarks/start_up.py --rows 100000 --folder /scratch

A list of pairs is made up, JSON Lines, each picture shared by many rows; the command that a user would give trains a
tiny model on it with ITC alone, a tokenizer of its own and no worker processes, so that all is in one process. It ends
where its first batch is there. One JSON line each:

  libraries  nothing but the import of the libraries that a training run needs, PyTorch's compiler among them, which its
             optimizers import
  cold       the list is read for the first time
  warm       the same command again, in another run folder

`imports` are the seconds until everything that a training run imports is imported, `start_up` those from there to the
first step, `peak_gb` the most memory of the process. When this was written, a million rows on one of two cores of an
AMD EPYC, busy with other work: at first, cold 31.2 s and warm 16.3 s; with rows that were read one at a time 23.3 s and
6.7 s; now 9.8 to 11.9 s and 7.0 s, 6.0 s on quieter cores, of which 2.0 train the tokenizer and 1.5 key the captions;
1.2 GB, as before. Ten million rows: 66 and 38 s, 4.0 GB. The imports were 4.0 to 4.6 s on quiet cores, those of the
libraries alone 3.3 to 3.6.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

PICTURES = 2000

RECIPE = {
    "data": {
        "transform": {
            "size": 32,
            "normalisation": "none",
            "crop_scale": [0.6, 1.0],
            "flip": 0.0,
            "rand_augment_ops": 0,
        }
    },
    "text": {"tokenizer": "train", "vocab_size": 4096, "max_length": 25},
    "model": {
        "size": "tiny",
        "options": {
            "image_encoder": {"model_type": "conv_stem", "image_size": 32},
            "image_pooling": "mean",
            "text_pooling": "mean",
        },
    },
    "objectives": {"itm": {"weight": 0.0}, "mlm": {"weight": 0.0}},
    "loop": {"epochs": 1, "batch_size": 128, "workers": 0},
    "evaluation": {"rerank": 0},
}

LIBRARIES = "torch._dynamo, torchvision.transforms, datasets, accelerate, transformers.models.bert.modeling_bert"


def make_up(folder: Path, rows: int) -> None:
    """Pictures, a list of pairs and a recipe."""
    from opening import captions  # not by the process that is timed: it brings what that one has to import itself

    pixels = np.random.default_rng(0)
    (folder / "images").mkdir()
    for number in range(min(PICTURES, rows)):
        Image.fromarray(pixels.integers(0, 255, (32, 32, 3), np.uint8)).save(folder / f"images/{number:05}.jpg")
    with (folder / "pairs.jsonl").open("w") as lines:
        for number, caption in enumerate(captions(rows)):
            lines.write(json.dumps({"image": f"images/{number % PICTURES:05}.jpg", "caption": caption}) + "\n")
    (folder / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))


def train(folder: Path, run_folder: str) -> None:
    """Give the command in this process, up to the first step; prints the figures."""
    from truepair.cli.main import main as command
    from truepair.engine.loop.loop import TrainingLoop

    imported = time.process_time()

    def first_step(loop: TrainingLoop, group: object, epoch: int) -> None:
        """Print, and leave."""
        figures = {
            "imports": round(imported, 2),
            "start_up": round(time.process_time() - imported, 2),
            "peak_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
        }
        print(json.dumps(figures), flush=True)
        os._exit(0)

    TrainingLoop._take_step = first_step  # type: ignore[assignment, method-assign]
    command(["train", str(folder / "recipe.yaml"), str(folder / "pairs.jsonl"), "--run-folder", run_folder])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, default=None, help="for all of it; a temporary one by default")
    parser.add_argument("--train", nargs=2, metavar=("FOLDER", "RUN"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.train:
        train(Path(arguments.train[0]), arguments.train[1])
        return
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        make_up(folder, arguments.rows)
        own = {"XDG_CACHE_HOME": f"{name}/cache", "HF_HOME": f"{name}/hub", "OMP_NUM_THREADS": "1"}
        surroundings = os.environ | own
        words = [sys.executable, "-c", f"import {LIBRARIES}, time; print(time.process_time())"]
        done = subprocess.run(words, env=surroundings, check=True, capture_output=True, text=True)
        print(json.dumps({"what": "libraries", "imports": round(float(done.stdout), 2)}), flush=True)
        for what in ("cold", "warm"):
            words = [sys.executable, __file__, "--train", name, f"{name}/{what}"]
            done = subprocess.run(words, env=surroundings, check=True, capture_output=True, text=True)
            found = json.loads(done.stdout.splitlines()[-1])
            print(json.dumps({"rows": arguments.rows, "what": what, **found}), flush=True)


if __name__ == "__main__":
    main()
