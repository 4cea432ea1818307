"""Caches that are damaged, through the real command: named in a line and made again, with the same result."""

import json
import os
import random
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from datasets import config
from PIL import Image

from tests.tasks.test_mining import recipe_of
from truepair.cli.main import main

Damage = Callable[[Path], None]


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def empty(file: Path) -> None:
    file.write_bytes(b"")


def flip(file: Path) -> None:
    """One bit, and the time of change as it was."""
    before, data = file.stat(), bytearray(file.read_bytes())
    data[random.Random(file.name).randrange(len(data))] ^= 4
    file.write_bytes(data)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def blot(file: Path) -> None:
    """Sixteen random bytes."""
    data, draw = bytearray(file.read_bytes()), random.Random(file.stat().st_size)
    start = draw.randrange(max(len(data) - 16, 1))
    data[start : start + 16] = draw.randbytes(len(data[start : start + 16]))
    file.write_bytes(data)


def lengthen(file: Path) -> None:
    file.write_bytes(file.read_bytes() + b"\0\1\2\3")


def fold(file: Path) -> None:
    """A folder in its place."""
    file.unlink()
    file.mkdir()
    (file / "inside").write_text("x")


def pipe(file: Path) -> None:
    """A pipe in its place, which would never answer."""
    file.unlink()
    os.mkfifo(file)


def lose(file: Path) -> None:
    """A link to nothing in its place."""
    file.unlink()
    file.symlink_to("/nowhere/at/all")


DAMAGES: list[Damage] = [cut, empty, flip, blot, lengthen, fold, pipe, lose, Path.unlink]


class Home:
    """A user's caches and a run on frozen states of squares.

    Args:
        squares: the pictures.
        folder: where all lies.
    """

    def __init__(self, squares: Path, folder: Path) -> None:
        shutil.copytree(squares, folder / "squares")
        self.folder = folder
        self.recipe = recipe_of(folder / "squares", folder)
        self.states = folder / "states"
        self.arrow = folder / "arrow" / "truepair"
        self.log = self.train()
        self.kept = folder / "kept"
        for name in ("states", "arrow", "squares"):
            shutil.copytree(folder / name, self.kept / name)

    def train(self) -> bytes:
        """Train, and the log of the run."""
        shutil.rmtree(self.folder / "run", ignore_errors=True)
        main(["train", str(self.recipe), "--run-folder", str(self.folder / "run")])
        return (self.folder / "run" / "log.jsonl").read_bytes()

    def restore(self) -> None:
        """Caches as the first run left them."""
        for name in ("states", "arrow"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
            shutil.copytree(self.kept / name, self.folder / name)


@pytest.fixture(scope="module")
def home(squares: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        patch.setattr(config, "HF_DATASETS_CACHE", folder / "arrow")
        yield Home(squares, folder)


@pytest.fixture
def train(home: Home, capsys: pytest.CaptureFixture[str]) -> Callable[[], list[str]]:
    """Trains, asks that the log is that of the first run, and gives the lines about caches."""

    def trained(*, same: bool = True) -> list[str]:
        with warnings.catch_warnings():
            capsys.readouterr()
            log = home.train()
        assert not same or log == home.log
        said = capsys.readouterr().err
        assert "Traceback" not in said and "Warning" not in said
        return [line for line in said.splitlines() if "again" in line or "anew" in line]

    home.restore()
    return trained


FILES = ["rows.arrow", "facts.json", "contents.i64", "states.f16", "manifest.json", "stamps.i64"]


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_cache_is_named_and_made_again(home: Home, train: Callable[[], list[str]], name: str) -> None:
    files = sorted(home.arrow.rglob(name)) or sorted(home.states.glob(f"images-*/{name}"))
    relative = files[0].relative_to(home.folder)
    for damage in random.Random(name).sample(DAMAGES, 3):
        home.restore()
        damage(home.folder / relative)
        lines = train()
        silent = name == "contents.i64" and damage in (lose, Path.unlink)  # nothing was there
        assert len(lines) == (0 if silent else 1), f"{damage.__name__}: {lines}"
        assert silent or "damaged" in lines[0], f"{damage.__name__}: {lines}"
        assert train() == [], f"{damage.__name__}: made again for good"


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", FILES)
def test_no_damage_ends_a_run_or_changes_it(
    home: Home, train: Callable[[], list[str]], name: str, damage: Damage
) -> None:
    files = [*home.arrow.rglob(name), *home.states.rglob(name)]
    for relative in [file.relative_to(home.folder) for file in files]:
        home.restore()
        damage(home.folder / relative)
        train()
        assert train() == []


def test_folders_in_place_of_files_and_files_in_place_of_folders(home: Home, train: Callable[[], list[str]]) -> None:
    folders = [path for root in (home.arrow, home.states) for path in root.iterdir() if path.is_dir()]
    for folder in folders:
        shutil.rmtree(folder)
        folder.write_text("a file")
    for lock in [*home.arrow.glob("*.lock"), *home.states.glob("*.lock")]:
        lock.unlink()
        lock.mkdir()
    lines = train()
    assert len(lines) == len(folders) and all("damaged" in line for line in lines)
    assert train() == []


def test_pictures_that_come_back_or_change_are_computed_again(home: Home, train: Callable[[], list[str]]) -> None:
    pictures = home.folder / "squares"
    shown = pictures / "red-small-0.png"
    before = shown.read_bytes()
    try:
        shown.write_bytes(b"no picture")
        recipe = json.loads(home.recipe.read_text())
        recipe["data"]["max_bad_fraction"] = 0.2
        home.recipe.write_text(json.dumps(recipe))
        assert train(same=False) == [], "it cannot be read: left out, and its states are kept"
        shown.write_bytes(before)
        (line,) = train()
        assert "of 36 pictures of" in line and "1 have changed" in line
        for number, picture in enumerate(sorted(pictures.glob("*-1.png"))[:5]):
            pixels = np.random.default_rng(number).integers(0, 255, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(picture)
        lines = train(same=False)
        assert any("of 36 pictures" in line and "5 have changed" in line for line in lines), lines
        assert train(same=False) == []
    finally:
        shutil.rmtree(pictures)
        shutil.copytree(home.kept / "squares", pictures)
