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


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{chr(98 + level)}: &{chr(98 + level)} [{', '.join(['*' + chr(97 + level)] * 9)}]\n" for level in range(20)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("names: &a [*a]", "line 1 holds itself by an alias; write out what is meant"),
        ("inner: &a {extra: *a}", "line 1 holds itself by an alias"),
        (BOMB, "line 5 holds more than 20,000 values, aliases written out; give fewer"),
        ("names: [" + "u, " * 150_000 + "]", "it has more than 262,144 characters; settings need no more"),
        ("names: " + "[" * 3000, "it is nested too deeply; write fewer brackets"),
        ("rate: 1\nrate: 2", "the key rate stands twice, again in line 2; leave one"),
        ("inner: {depth: 1, depth: 2}", "the key depth stands twice, again in line 1; leave one"),
        ("1: 2", "the key 1 in line 1 is no text; put it in quotes, if it is a name"),
        ("inner:\n  true: 1", "the key true in line 2 is no text"),
        ("? [a]\n: 1", "the key in line 1 is no text"),
        ("rate:\t1\n\tnames: [u]", "cannot start any token"),
        ("rate: 2020-13-45", "month must be in 1..12"),
        ("rate: !!int many", "invalid literal for int()"),
        ("rate: " + "9" * 5000, "Exceeds the limit (4300 digits)"),
        ("rate: !!python/object/apply:os.system [id]", "could not determine a constructor for the tag"),
        ("rate: \x00", "special characters are not allowed"),
        ("rate: *nowhere", "found undefined alias 'nowhere'"),
        ("---\nrate: 1\n---\nrate: 2", "but found another document"),
        ("rate: null", "rate is null; give a value of type float, or leave it out"),
        ("inner:", "inner: null is no group of fields; state its fields, or leave it out"),
        ("inner: 5", "inner: 5 is no group of fields"),
        ("rate: 1" + "0" * 4000, "... is no float"),
        ("inner: {depth: .nan}", "inner.depth: nan is no int"),
        ("rate: .nan", "rate is nan; give a finite number"),
        ("rate: -.inf", "rate is -inf; give a finite number"),
        (f"rate: {'x' * 50_000}", f"rate: {'x' * 200}... is no float"),
        ("base: [1]", "base is [1]; give the name of a recipe, or a list of names"),
        ("base: 5", "base is 5; give the name of a recipe, or a list of names"),
        ("base: {a: b}", "base is {'a': 'b'}; give the name of a recipe, or a list of names"),
    ],
)
def test_settings_that_are_none_are_one_short_line(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        read(text, [], tmp_path)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 1000


def test_bytes_that_are_no_text_are_one_line(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_bytes(b"rate: \xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"recipe.yaml is not valid YAML: 'utf-8' codec can't decode byte 0xff"):
        read_recipe(Recipe, [path], [], command="test")


@pytest.mark.parametrize("word", ["[" * 3000, "9" * 5000, "&a [*a]", "{1: 2}", "*a", "nan", "-1e400", "null", ""])
def test_words_that_are_no_value_are_one_line(word: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^[^\n]{1,1000}$"):
        read("{}", ["--inner.depth", word], tmp_path)


def test_an_alias_stands_for_what_it_names(tmp_path: Path) -> None:
    recipe = read("inner: &inner {depth: 5}\nrarely: {<<: *inner, span: [0.5, 0.6]}", [], tmp_path)
    assert recipe == Recipe(inner=Inner(depth=5), rarely=Inner(depth=5, span=(0.5, 0.6)))


def test_recipes_under_recipes_are_counted(tmp_path: Path) -> None:
    (tmp_path / "0.yaml").write_text("rate: 2.0")
    for level in range(1, 30):
        (tmp_path / f"{level}.yaml").write_text(f"base: [{level - 1}.yaml, {level - 1}.yaml]")
    with pytest.raises(ConfigError, match=r"29\.yaml has more than 100 recipes under it; name fewer in 'base'"):
        read_recipe(Recipe, [tmp_path / "29.yaml"], [], command="test")
