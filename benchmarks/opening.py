"""Time and memory of opening a list of pairs: cold, from the file; and warm, from the Arrow file made of it.

    python benchmarks/opening.py                              # 10,000, 100,000 and 1,000,000 rows in every layout
    python benchmarks/opening.py --layouts jsonl --rows 10000000 --folder /scratch

A list is made up first: a path, a caption of 3 to 17 words, and an id where the layout has one; COCO and Karpathy's
layout have five captions an image, and their rows are captions here. Each opening is a process of its own. One JSON
line each: wall time and CPU time in seconds, without imports; microseconds of CPU time a row; and how much the process
grew, as its peak (memory-mapped pages, which the system takes back, included) and as what only it holds at the end.

  cold     `open_pairs` without a cached table
  warm     `open_pairs` again
  tables   what a training command does with the table before its first step: splits, known matches, `as_pairs`
  read     the file's bytes alone, for scale

While rows were made one at a time, on one of two cores; before that, with JSON parsed twice and a ``Path`` a row, it
took 20.6 and 20.7 us a row at 100,000, pictures not looked for. The pictures are empty files, so that looking for them
is part of it, and hashing is not:

  layout  what      10,000 rows, us a row  1,000,000 rows, us a row  seconds  peak GB  own GB
  jsonl   cold                       14.2                      15.5     15.6     0.69    0.14
  jsonl   warm                        5.7                       3.3      3.3     0.57    0.11
  jsonl   tables                     18.2                      17.2     17.2     0.57    0.20
  csv     cold                       12.8                      16.5     16.6     0.55    0.15
  csv     warm                        3.9                       3.6      3.6     0.57    0.11
  csv     tables                     23.1                      26.3     26.3     0.57    0.21

On busy cores, pictures not looked for: ALBEF's layout 16.7 us a row at a million, COCO's 5.0 a caption.

Now that many rows are made at once, on cores so busy that the former way took 19.7 s there (0.53 GB at its peak):

  jsonl   cold                                                  8.4      8.4     0.49    0.19
  jsonl   tables                                                9.5      9.5     0.50    0.18

and at 200,000 rows, one file after the other, us a row before and now, pictures not there: JSON Lines 17.1 and 6.8, CSV
17.5 and 7.5, ALBEF's layout 15.3 and 6.2, COCO's 6.1 and 4.8 a caption, Karpathy's 5.2 and 3.8. 10,000,000 rows are not
measured.
"""

import argparse
import json
import multiprocessing
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from truepair.data import open_pairs
from truepair.data.identity import match_keys
from truepair.data.splits import DataConfig, build_tables

WORDS = [
    "a",
    "the",
    "dog",
    "cat",
    "man",
    "woman",
    "red",
    "small",
    "on",
    "in",
    "with",
    "two",
    "street",
    "plays",
    "water",
]

CAPTIONS = 5  # an image, where a layout holds several


def captions(count: int, seed: int = 0) -> Iterator[str]:
    draw = random.Random(seed)
    return (f"{' '.join(draw.choices(WORDS, k=draw.randint(2, 16)))} {number}" for number in range(count))


def image_of(number: int) -> str:
    return f"images/{number // 1000:05}/{number:09}.jpg"


def write_jsonl(file: Path, rows: int) -> None:
    with file.open("w") as lines:
        for number, text in enumerate(captions(rows)):
            lines.write(json.dumps({"image": image_of(number), "caption": text, "image_id": number}) + "\n")


def write_csv(file: Path, rows: int) -> None:
    with file.open("w") as lines:
        lines.write("image,caption\n")
        lines.writelines(f'{image_of(number)},"{text}, it says"\n' for number, text in enumerate(captions(rows)))


def write_tsv(file: Path, rows: int) -> None:
    with file.open("w") as lines:
        lines.write("image\tcaption\n")
        lines.writelines(f"{image_of(number)}\t{text}\n" for number, text in enumerate(captions(rows)))


def write_albef(file: Path, rows: int) -> None:
    texts = enumerate(captions(rows))
    file.write_text(json.dumps([{"image": image_of(n // CAPTIONS), "caption": text} for n, text in texts]))


def write_coco(file: Path, rows: int) -> None:
    images = [{"id": n, "file_name": image_of(n), "height": 480, "width": 640} for n in range(rows // CAPTIONS)]
    notes = [{"id": n, "image_id": n // CAPTIONS, "caption": text} for n, text in enumerate(captions(rows))]
    file.write_text(json.dumps({"images": images, "annotations": notes}))


def write_karpathy(file: Path, rows: int) -> None:
    texts = captions(rows)
    images = [
        {
            "filename": image_of(number),
            "imgid": number,
            "split": "train",
            "sentids": [number * CAPTIONS + one for one in range(CAPTIONS)],
            "sentences": [
                {
                    "raw": (text := next(texts)),
                    "tokens": text.split(),
                    "imgid": number,
                    "sentid": number * CAPTIONS + one,
                }
                for one in range(CAPTIONS)
            ],
        }
        for number in range(rows // CAPTIONS)
    ]
    file.write_text(json.dumps({"images": images, "dataset": "made up"}))


LAYOUTS: dict[str, tuple[str, Callable[[Path, int], None]]] = {
    "jsonl": ("pairs.jsonl", write_jsonl),
    "csv": ("pairs.csv", write_csv),
    "tsv": ("pairs.tsv", write_tsv),
    "albef": ("pairs.json", write_albef),
    "coco": ("captions.json", write_coco),
    "karpathy": ("dataset.json", write_karpathy),
}


def make_pictures(folder: Path, rows: int) -> None:
    """Empty files for all rows, which opening looks for."""
    for number in range(rows):
        path = folder / image_of(number)
        if not path.parent.is_dir():
            path.parent.mkdir(parents=True)
        path.touch()


def memory(field: str) -> float:
    """A figure of this process in GB: "VmHWM" its peak, "RssAnon" what only it holds."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) * 1024 / 1e9


def read(file: Path, cache: str) -> None:
    file.read_bytes()


def opened(file: Path, cache: str) -> None:
    open_pairs(str(file), cache_dir=cache)


def tables(file: Path, cache: str) -> None:
    from truepair.data.source import SourceConfig

    source = SourceConfig(source=str(file), cache_dir=cache)
    built = build_tables(DataConfig(sources=[source], captions="pairs"))
    match_keys(built.train, "pairs")


def measured(call: Callable[[Path, str], None], file: Path, cache: str) -> dict[str, float]:
    """Seconds and GB of one call."""
    peak, own = memory("VmHWM"), memory("RssAnon")
    wall, cpu = time.perf_counter(), time.process_time()
    call(file, cache)
    return {
        "wall": round(time.perf_counter() - wall, 3),
        "cpu": round(time.process_time() - cpu, 3),
        "peak_gb": round(memory("VmHWM") - peak, 3),
        "own_gb": round(memory("RssAnon") - own, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--layouts", nargs="+", choices=LAYOUTS, default=list(LAYOUTS))
    parser.add_argument("--rows", nargs="+", type=int, default=[10_000, 100_000, 1_000_000])
    parser.add_argument(
        "--folder", type=Path, default=None, help="for the lists and tables; a temporary one by default"
    )
    arguments = parser.parse_args()
    spawned = multiprocessing.get_context("spawn")
    for layout in arguments.layouts:
        name, write = LAYOUTS[layout]
        for rows in arguments.rows:
            with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
                file, cache = Path(folder, name), str(Path(folder, "cache"))
                write(file, rows)
                make_pictures(Path(folder), rows)
                for what, call in {"read": read, "cold": opened, "warm": opened, "tables": tables}.items():
                    with spawned.Pool(1) as pool:
                        pool.apply(time.time)  # imports
                        figures = pool.apply(measured, (call, file, cache))
                    figures["us_a_row"] = round(figures["cpu"] / rows * 1e6, 2)
                    print(json.dumps({"layout": layout, "rows": rows, "what": what, **figures}), flush=True)


if __name__ == "__main__":
    main()
