"""A small review session that keeps its answers as the real one must, for tests of the page and its server.

``python -m tests.review.fake FOLDER`` serves one, so that a test may kill it.
"""

import json
import os
import sys
import threading
from collections import Counter
from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from truepair.data.images import load_image
from truepair.errors import ConfigError, DataError

TEXTS = [
    "a brown dog runs through the snow",
    "<script>document.title = 'taken'</script><img src=x onerror=\"document.title='taken'\"> & a cat",
    "كلب بني يركض في الثلج",
    "🐕‍🦺 a dog 🎉 & 雪の中の犬",
    "two people sit on a bench beside a lake and look at the mountains. " * 6,
]
BROKEN = 2


@dataclass(frozen=True)
class Question:
    key: str
    picture: int
    caption: int
    text: str
    own: list[str]
    owner: int
    owner_captions: list[str]
    probability: float
    why: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class FakeSession:
    def __init__(self, folder: Path, cells: int = 120) -> None:
        self.file = folder / "answers.jsonl"
        self.lock = threading.Lock()
        self.sample: float | None = None
        self.questions = {}
        for number in range(cells):
            picture, text = number % 12, TEXTS[number % len(TEXTS)]
            key = f"{picture}-{number}"
            own = [f"own caption of picture {picture}", "another one"]
            self.questions[key] = Question(
                key, picture, number, text, own, 5, [text], 0.5, ["rank", "uncertain"][number % 2]
            )

    def lines(self) -> list[dict[str, Any]]:
        if not self.file.is_file():
            return []
        return [json.loads(line) for line in self.file.read_text(encoding="utf-8").splitlines()]

    def standing(self) -> dict[tuple[str, str], dict[str, Any]]:
        kept: dict[tuple[str, str], dict[str, Any]] = {}
        for line in self.lines():
            kept.pop((line["person"], line["key"]), None)
            if line["answer"] != "undo":
                kept[line["person"], line["key"]] = line
        return kept

    def _append(self, **line: Any) -> None:
        with self.file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def ask(self, person: str, besides: Collection[str] = ()) -> Question | None:
        with self.lock:
            done = {key for who, key in self.standing() if who == person} | set(besides)
            return next((question for key, question in self.questions.items() if key not in done), None)

    def answer(self, person: str, key: str, answer: str, note: str = "", seconds: float | None = None) -> None:
        if key not in self.questions:
            raise DataError(f"there is no pair {key}")
        with self.lock:
            if self.standing().get((person, key), {}).get("answer") == answer:
                return  # the page hands in again what it does not know to have arrived
            self._append(person=person, key=key, answer=answer, note=note, seconds=seconds)

    def undo(self, person: str) -> Question | None:
        with self.lock:
            keys = [key for who, key in self.standing() if who == person]
            if not keys:
                return None
            self._append(person=person, key=keys[-1], answer="undo")
            return self.questions[keys[-1]]

    def state(self, person: str) -> dict[str, Any]:
        with self.lock:
            kept = list(self.standing().values())
        judged = Counter(line["key"] for line in kept)
        several = [key for key, count in judged.items() if count > 1]
        alike = [key for key in several if len({line["answer"] for line in kept if line["key"] == key}) == 1]
        kinds = Counter(line["answer"] for line in kept)
        people = {
            name: dict(Counter(line["answer"] for line in kept if line["person"] == name))
            for name, _ in [(line["person"], 0) for line in kept]
        }
        running = {
            "precision": self.sample,
            "confidence": 0.95,
            "attempt": 1,
            "asked": 21,
            "of": 64,
            "matched": 20,
            "held": None,
            "sentence": "",
        }
        return {
            "answers": {"yes": 0, "no": 0, "unsure": 0, "skip": 0, "same_picture": 0} | kinds,
            "people": people,
            "matches": kinds["yes"],
            "average_precision": {"value": 0.714, "low": 0.61, "high": 0.79, "answers": 96},
            "expected": [
                {"precision": 0.8, "pairs": 5210, "threshold": 0.55},
                {"precision": 0.9, "pairs": 3412, "threshold": 0.81},
                {"precision": 0.95, "pairs": 1207, "threshold": 0.93},
            ],
            "more": {"answers": 100, "average_precision": 0.734},
            "agreement": {"pairs": len(several), "agreed": len(alike)},
            "certificate": running if self.sample else None,
            "pairs_a_minute": 21.4 if kept else None,
            "seconds_left": 384.0,
            "reliability": [
                {"predicted": p, "observed": o, "low": max(o - 0.12, 0), "high": min(o + 0.12, 1), "pairs": 20}
                for p, o in ((0.05, 0.02), (0.2, 0.24), (0.45, 0.4), (0.7, 0.76), (0.93, 0.95))
            ],
            "signal_reliability": {
                "vlm/vlm <b>x</b>": [{"predicted": 0.5, "observed": 0.4, "low": 0.3, "high": 0.5, "pairs": 40}]
            },
        }

    def certify(self, precision: float, confidence: float = 0.95) -> None:
        if precision > 0.99:
            raise ConfigError("no sample of these pairs can show that; state a lower precision")
        self.sample = precision

    def import_answers(self, file: Path) -> None:
        try:
            for line in file.read_text(encoding="utf-8").splitlines():
                said = json.loads(line)
                self.answer(said["person"], said["key"], said["answer"])
        except (ValueError, KeyError) as error:
            raise DataError(f"{file.name} holds no answers; export some to see their form") from error

    def export_answers(self, file: Path) -> None:
        file.write_text("".join(json.dumps(line) + "\n" for line in self.standing().values()), encoding="utf-8")


class FakePictures:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for number in range(12):
            file = folder / f"{number}.png"
            if number == BROKEN:
                file.write_bytes(b"no picture")
            elif not file.exists():
                size = ((640, 480), (360, 720), (900, 300))[number % 3]
                picture = Image.new("RGB", size, (40 + 15 * number, 110, 200 - 12 * number))
                draw = ImageDraw.Draw(picture)
                draw.rectangle((0, size[1] * 2 // 3, *size), fill=(236, 240, 244))
                draw.ellipse((size[0] // 4, size[1] // 4, size[0] // 2, size[1] // 2 + 60), fill=(120, 80, 50))
                picture.save(file)

    def __len__(self) -> int:
        return 12

    def image(self, number: int) -> Image.Image:
        return load_image({"path": str(self.folder / f"{number}.png")})


def main() -> None:
    from truepair.review.server import serve

    folder = Path(sys.argv[1])
    serve(FakeSession(folder), FakePictures(folder), folder, lambda line: print(line, flush=True), browser=False)
    print("ended", flush=True)


if __name__ == "__main__":
    main()
