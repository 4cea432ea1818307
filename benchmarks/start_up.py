"""CPU seconds of ``truepair train`` from the start of its process to its first step.

    python benchmarks/start_up.py
    python benchmarks/start_up.py --layouts jsonl csv lists hub --rows 100000 --folder /scratch

A list of pairs is made up, each picture shared by many rows; the command that a user would give trains a tiny model on
it with ITC alone, a tokenizer of its own and no worker processes, so that all is in one process. It ends where its
first batch is there. One JSON line each:

  libraries  nothing but the import of the libraries that a training run needs, PyTorch's compiler among them, which its
             optimizers import; Python's collector rests, as it does in the command
  collected  the same while the collector works
  cold       the list is read for the first time
  warm       the same command again, in another run folder

Layouts: `jsonl`, lines of a path and a caption; `csv`, the same with an id of the caption; `lists`, lines with lists of
captions, their ids and all true names; `hub`, what the library datasets wrote, with names.

`imports` are the seconds until the command has imported everything and read its recipe, `start_up` those from there to
the first step, `imports_gb` and `peak_gb` the most memory of the process until each.

When this was written, on two cores of an AMD EPYC: imports 3.9 to 4.1 s before, now 2.8 to 3.2, of which the
libraries alone are 2.4 to 3.0 (3.1 to 3.6 while the collector works); on cores that four times as many programs
shared 4.4 to 4.7, 3.4 to 3.6, 2.8 to 3.0 and 3.8 to 3.9. 0.86 GB, before 0.85, of which the libraries alone are 0.82.
A million rows beyond imports: `jsonl` cold 8.2 to 8.5 s and warm 4.9 to 6.3, 1.3 GB; `csv` 8.9 and 5.1; on the shared
cores, before and with rows made many at once, `lists` cold 36.6 and 24.2 s, warm 21.3 and 18.1, `hub` cold 45.9 and
21.5, warm 22.9 and 19.7, 2.1 GB; known matches, which took 9 of these seconds, have taken half of that since. Earlier
`jsonl`: at first, cold 31.2 s and warm 16.3 s, then 23.3 and 6.7 s with rows read one at a time; ten million rows 66
and 38 s, 4.0 GB.
"""

import argparse
import compileall
import gc
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

import truepair

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

LIBRARIES = (
    "torch._dynamo",
    "torchvision.transforms",
    "datasets",
    "accelerate",
    "transformers.models.bert.modeling_bert",
)


def write_jsonl(folder: Path, rows: int) -> str:
    with (folder / "pairs.jsonl").open("w") as lines:
        for number, caption in enumerate(captions(rows)):
            lines.write(json.dumps({"image": image_of(number), "caption": caption}) + "\n")
    return "pairs.jsonl"


def write_csv(folder: Path, rows: int) -> str:
    with (folder / "pairs.csv").open("w") as lines:
        lines.write("image,caption,caption_id\n")
        lines.writelines(f'{image_of(n)},"{caption}",{n}\n' for n, caption in enumerate(captions(rows)))
    return "pairs.csv"


def write_lists(folder: Path, rows: int) -> str:
    with (folder / "pairs.jsonl").open("w") as lines:
        for number, caption in enumerate(captions(rows)):
            row = {"captions": [caption], "caption_ids": [number], "names": [caption, "a thing"]}
            lines.write(json.dumps({"image": image_of(number)} | row) + "\n")
    return "pairs.jsonl"


def write_hub(folder: Path, rows: int) -> str:
    from datasets import Dataset

    texts = list(captions(rows))
    names = [[text, "a thing"] for text in texts]
    columns = {"image": list(map(image_of, range(rows))), "caption": texts, "names": names}
    Dataset.from_dict(columns).save_to_disk(folder / "saved")
    (folder / "saved" / "images").symlink_to("../images")
    return "saved"


COLLECTOR = {"libraries": gc.disable, "collected": gc.enable}

LAYOUTS = {"jsonl": write_jsonl, "csv": write_csv, "lists": write_lists, "hub": write_hub}


def captions(count: int) -> Iterator[str]:
    from opening import captions  # not by the process that is timed: it brings what that one has to import itself

    return captions(count)


def image_of(number: int) -> str:
    return f"images/{number % PICTURES:05}.jpg"


def make_up(folder: Path, rows: int, layout: str) -> str:
    """Pictures, a list of pairs and a recipe; the name of the list."""
    pixels = np.random.default_rng(0)
    (folder / "images").mkdir()
    for number in range(min(PICTURES, rows)):
        Image.fromarray(pixels.integers(0, 255, (32, 32, 3), np.uint8)).save(folder / image_of(number))
    (folder / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    return LAYOUTS[layout](folder, rows)


def gigabytes() -> float:
    """The most memory that this process has had; ``resource`` would count that of the process that started it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return round(next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 2**20, 2)


def train(folder: Path, pairs: str, run_folder: str) -> None:
    """Give the command in this process, up to the first step; prints the figures."""
    from truepair.cli.main import main as command
    from truepair.cli.run_folder import Opening

    recorded = Opening.recorded

    def imported(opened: Opening[object]) -> AbstractContextManager[None]:
        """Everything is imported, and nothing else is done."""
        from truepair.engine.loop.loop import TrainingLoop

        seconds, before = time.process_time(), gigabytes()

        def first_step(loop: TrainingLoop, group: object, epoch: int) -> None:
            """Print, and leave."""
            figures = {
                "imports": round(seconds, 2),
                "start_up": round(time.process_time() - seconds, 2),
                "imports_gb": before,
                "peak_gb": gigabytes(),
            }
            print(json.dumps(figures), flush=True)
            os._exit(0)

        TrainingLoop._take_step = first_step  # type: ignore[assignment, method-assign]
        return recorded(opened)

    Opening.recorded = imported  # type: ignore[method-assign]
    command(["train", str(folder / "recipe.yaml"), str(folder / pairs), "--run-folder", run_folder])


def libraries(collector: str) -> None:
    """Import the libraries alone; prints the figures."""
    COLLECTOR[collector]()
    for name in LIBRARIES:
        importlib.import_module(name)
    print(json.dumps({"imports": round(time.process_time(), 2), "imports_gb": gigabytes()}))


def in_a_process(*words: str, **surroundings: str) -> dict[str, float]:
    """The figures that this program prints when it is called with some words."""
    call = [sys.executable, __file__, *words]
    done = subprocess.run(call, env=os.environ | surroundings, check=True, capture_output=True, text=True)
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--layouts", nargs="+", choices=LAYOUTS, default=["jsonl"])
    parser.add_argument("--folder", type=Path, default=None, help="for all of it; a temporary one by default")
    parser.add_argument("--libraries", choices=COLLECTOR, help=argparse.SUPPRESS)
    parser.add_argument("--train", nargs=3, metavar=("FOLDER", "PAIRS", "RUN"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.libraries:
        libraries(arguments.libraries)
        return
    if arguments.train:
        train(Path(arguments.train[0]), *arguments.train[1:])
        return
    compileall.compile_dir(Path(truepair.__file__).parent, quiet=1)  # as pip does, whatever the surroundings say
    for what in COLLECTOR:
        print(json.dumps({"what": what, **in_a_process("--libraries", what)}), flush=True)
    for layout in arguments.layouts:
        with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
            pairs = make_up(Path(name), arguments.rows, layout)
            own = {"XDG_CACHE_HOME": f"{name}/cache", "HF_HOME": f"{name}/hf", "OMP_NUM_THREADS": "1"}
            for what in ("cold", "warm"):
                found = in_a_process("--train", name, pairs, f"{name}/{what}", **own)
                print(json.dumps({"rows": arguments.rows, "layout": layout, "what": what, **found}), flush=True)


if __name__ == "__main__":
    main()
