"""What the commands that read a recipe have in common."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from truepair.cli.fields import RecipeClass
from truepair.cli.run_folder import Opening, RecipeCommand, say
from truepair.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """A recipe.

    Attributes:
        width: a number.
        depth: another one.
        pairs: where they are.
    """

    width: int = 1
    depth: int = 1
    pairs: list[str] = field(default_factory=list)


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RANK", raising=False)
    path = tmp_path / "wide.yaml"
    path.write_text("width: 7")
    return path


def opening(*words: str, folder: str = "", task: str = "") -> Opening[Sizes]:
    return RecipeCommand("truepair try", RecipeClass.of(Sizes), "", task=task, folder=folder).open(words)


@pytest.mark.parametrize(
    ("words", "settings", "folder"),
    [
        ([], {}, "runs/wide"),
        ([], {"task": "vqa"}, "runs/vqa-wide"),
        ([], {"folder": "runs/judge"}, "runs/judge"),
        (["--run-folder", "here"], {"folder": "runs/judge"}, "here"),
    ],
)
def test_recipe_title_and_folder(recipe: Path, words: list[str], settings: dict[str, str], folder: str) -> None:
    opened = opening("wide.yaml", "--depth", "3", *words, **settings)
    assert opened == Opening(Sizes(width=7, depth=3), "truepair try wide.yaml", Path(folder))


def test_the_recipe_is_sought_before_the_costly_import(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unwanted = RecipeClass[Sizes]("tests.cli.test_run_folder_opening", "Sizes")
    monkeypatch.setattr(RecipeClass, "load", lambda kind: pytest.fail("imported"))
    with pytest.raises(ConfigError, match="there is no recipe narrow"):
        RecipeCommand("truepair try", unwanted, "").open(["narrow"])


def test_the_recipe_is_kept(recipe: Path) -> None:
    with opening("wide.yaml").recorded():
        assert "width: 7" in Path("runs/wide/recipe.yaml").read_text()


def test_a_refused_recipe_does_not_stay(recipe: Path) -> None:
    kept = Path("runs/wide/recipe.yaml")
    for width in ("1", "2"):
        with pytest.raises(ConfigError), opening("wide.yaml", "--width", width).recorded():
            raise ConfigError("the first run, too, may be a mistake")
    assert "width: 1" in kept.read_text()
    with opening("wide.yaml", "--width", "3").recorded():
        pass
    with pytest.raises(KeyboardInterrupt), opening("wide.yaml", "--width", "4").recorded():
        raise KeyboardInterrupt
    assert "width: 4" in kept.read_text()  # a run that was stopped was not refused


def test_only_the_first_of_several_processes_writes_and_speaks(
    recipe: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", "1")
    with opening("wide.yaml").recorded():
        say("nothing")
    assert not Path("runs").exists()
    monkeypatch.setenv("RANK", "0")
    long = "runs/" + "x" * 200 + "/[bold]model"
    say(long)
    assert capsys.readouterr().err == long + "\n"


def test_words_that_name_pairs_stand_for_a_field(recipe: Path) -> None:
    Path("photos").mkdir()

    def pairs(*words: str) -> list[str]:
        command = RecipeCommand("truepair try", RecipeClass.of(Sizes), "", sources="pairs")
        return command.open(["wide.yaml", *words]).recipe.pairs

    words = ["photos", "nowhere.csv", "s-{000..331}.tar", "owner/name", "a/b/c.jsonl"]
    assert pairs(*words) == words
    assert pairs() == []
    with pytest.raises(ConfigError, match=r"^a\.csv and --pairs both name the pairs; give one of them"):
        pairs("a.csv", "--pairs", "[b.csv]")
    with pytest.raises(ConfigError, match="there is no recipe phots"):
        pairs("phots")
