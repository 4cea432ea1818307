from dataclasses import dataclass, field
from pathlib import Path

import pytest

from truepair.cli.arguments import read_recipe, to_yaml
from truepair.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Inner:
    """A group.

    Attributes:
        depth: how deep.
        span: from, to.
        extra: free keys.
    """

    depth: int = 3
    span: tuple[float, float] = (0.1, 0.2)
    extra: dict[str, int | str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A recipe.

    Attributes:
        rate: a number.
        inner: a group.
        names: a list.
        rarely: a section that may be absent.
    """

    rate: float = 1.0
    inner: Inner = field(default_factory=Inner)
    names: list[str] = field(default_factory=lambda: ["u"])
    rarely: Inner | None = None


def read(text: str, words: list[str], tmp_path: Path) -> Recipe:
    path = tmp_path / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return read_recipe(Recipe, [path], words, command="test")


def test_file_then_command_line(tmp_path: Path) -> None:
    recipe = read(
        "inner: {depth: 5, extra: {k: 3, z: hi}}\nnames: [m, n]\n", ["--rate", "1e-3", "--inner.depth=7"], tmp_path
    )
    assert recipe == Recipe(rate=1e-3, inner=Inner(depth=7, extra={"k": 3, "z": "hi"}), names=["m", "n"])


def test_defaults_and_round_trip(tmp_path: Path) -> None:
    assert read_recipe(Recipe, [], [], command="test") == Recipe()
    recipe = Recipe(rate=0.5, inner=Inner(span=(0.3, 0.4)))
    assert read(to_yaml(recipe), [], tmp_path) == recipe


@pytest.mark.parametrize(
    ("text", "words", "message"),
    [
        ("inner: {dept: 5}", [], r"no field inner\.dept \(did you mean 'inner\.depth'\?\)"),
        ("rat: 5", [], r"no field rat \(did you mean 'rate'\?\)"),
        ("", ["--inner.dpth", "3"], r"no option --inner\.dpth \(did you mean 'inner\.depth'\?\)"),
        ("", ["--rate", "quick"], "rate.*quick"),
        ("inner: {depth: deep}", [], "inner.depth.*deep"),
        ("", ["stray"], "stray"),
        ("[1, 2]", [], "must hold fields and values"),
        ("a: [", [], "not valid YAML"),
    ],
)
def test_a_mistake_is_one_line(text: str, words: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        read(text, words, tmp_path)
    assert "\n" not in str(caught.value)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read the recipe .*none\.yaml"):
        read_recipe(Recipe, [tmp_path / "none.yaml"], [], command="test")


def test_values_are_never_python_objects(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not valid YAML"):
        read("rate: !!python/object/apply:os.system ['touch hacked']", [], tmp_path)
    assert not (tmp_path / "hacked").exists()


def test_fields_of_an_absent_section(tmp_path: Path) -> None:
    words = ["--rarely.depth", "9", "--rate", "2", "--rarely.span=[1e-3, 0.5]"]
    assert read("", words, tmp_path) == Recipe(rate=2.0, rarely=Inner(depth=9, span=(1e-3, 0.5)))
    assert read("rarely: {depth: 5}", ["--rarely", "null"], tmp_path) == Recipe()
    with pytest.raises(ConfigError, match="needs a value"):
        read("", ["--rarely.depth"], tmp_path)


def test_layers_lie_over_each_other(tmp_path: Path) -> None:
    (tmp_path / "low.yaml").write_text("inner: {depth: 5}\nnames: [low]\nrate: 0.1")
    (tmp_path / "middle.yaml").write_text("base: low.yaml\ninner: {span: [0.0, 1.0]}\nrarely: {depth: 2}")
    (tmp_path / "high.yaml").write_text("names: [high]\nrarely: {depth: 4}")
    paths = [tmp_path / "middle.yaml", tmp_path / "high.yaml"]
    expected = Recipe(rate=0.1, inner=Inner(depth=5, span=(0.0, 1.0)), names=["high"], rarely=Inner(depth=4))
    assert read_recipe(Recipe, paths, [], command="test") == expected


def test_a_recipe_that_lies_under_itself(tmp_path: Path) -> None:
    (tmp_path / "one.yaml").write_text("base: two.yaml")
    (tmp_path / "two.yaml").write_text("base: [one.yaml]")
    with pytest.raises(ConfigError, match="lies under itself"):
        read_recipe(Recipe, [tmp_path / "one.yaml"], [], command="test")


@pytest.mark.parametrize("word", ["[dataset_flickr8k.json", "{e: [1}"])
def test_an_option_that_is_no_yaml_is_one_line(tmp_path: Path, word: str) -> None:
    with pytest.raises(ConfigError, match=r"^--names: "):
        read("", ["--names", word], tmp_path)
