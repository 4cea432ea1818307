"""What the sources say of recipes is what the dataclasses are."""

import ast
import dataclasses
import resource
import subprocess
import sys
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Union

import pytest

from truepair.cli.arguments import read_recipe
from truepair.cli.fields import RecipeClass, Section
from truepair.cli.options import CommandParser
from truepair.cli.run_folder import PRETRAIN
from truepair.cli.tasks import TASKS
from truepair.errors import ConfigError

KINDS = [
    *dict.fromkeys([PRETRAIN, *(kind for task in TASKS.values() for kind in (task.recipe, task.evaluation) if kind)]),
    RecipeClass[Any]("truepair.tasks.study.config", "StudyConfig"),
    RecipeClass[Any]("truepair.mining.mine", "MiningConfig"),
]


@dataclass(frozen=True, kw_only=True)
class Base:
    """What all rules have.

    Attributes:
        action: what becomes of the pairs.
    """

    action: Literal["mask", "relabel"] = "mask"


@dataclass(frozen=True, kw_only=True)
class Same(Base):
    """Pairs of one image.

    Attributes:
        detector: its name.
    """

    detector: Literal["same"]


@dataclass(frozen=True, kw_only=True)
class Drawn(Base):
    """Pairs drawn at random.

    Attributes:
        detector: its name.
        rate: share of all pairs.
    """

    WORDS: ClassVar[int] = 3
    detector: Literal["drawn"]
    rate: float = 0.1

    def __post_init__(self) -> None:
        if self.rate > 1:
            raise ConfigError(f"rate is {self.rate:g}; give at most 1")


Rule = Same | Drawn


def _usual() -> list[Rule]:
    return [Same(detector="same")]


@dataclass(frozen=True, kw_only=True)
class Rules:
    """A recipe.

    Attributes:
        rules: several.
        one: a rule, or none.
        old: the same in other words.
        mixed: names or rules.
        share: a number.
        places: free keys.
    """

    rules: list[Rule] = field(default_factory=_usual)
    one: "Rule | None" = None
    old: Union[Same, Drawn, None] = None  # noqa: UP007
    mixed: list[str | Drawn] = field(default_factory=list)
    share: Annotated[float, "of all"] = 0.5
    places: dict[str, Any] = field(default_factory=dict)


def members(hint: Any) -> Iterator[Any]:
    """The members of a union, or the type itself."""
    if typing.get_origin(hint) is Annotated:
        yield from members(typing.get_args(hint)[0])
    elif typing.get_origin(hint) in (typing.Union, types.UnionType):
        for option in typing.get_args(hint):
            yield from members(option)
    else:
        yield hint


def dataclasses_among(hints: list[Any]) -> list[type]:
    return [hint for hint in hints if isinstance(hint, type) and dataclasses.is_dataclass(hint)]


def assert_same(section: Section, kind: type) -> None:
    """Names, types, defaults and docstrings, down to the last section and item."""
    hints = typing.get_type_hints(kind)
    real = {entry.name: entry for entry in dataclasses.fields(kind)}
    assert section.kind.load() is kind
    assert list(section.fields) == list(real)
    assert all(section.describe().get(name) for name in real), f"{kind.__name__}: a field without a word on it"
    for name, stated in section.fields.items():
        options = list(members(hints[name]))
        inner = [option for hint in options for option in typing.get_args(hint) if typing.get_origin(hint) is not dict]
        items = dataclasses_among([one for option in inner for one in members(option)])
        assert [part.kind.load() for part in stated.sections] == dataclasses_among(options), name
        assert [part.kind.load() for part in stated.items] == items, name
        for part in (*stated.sections, *stated.items):
            assert_same(part, part.kind.load())
        literals = [option for option in options if typing.get_origin(option) is Literal]
        assert stated.choices == tuple(choice for literal in literals for choice in typing.get_args(literal))
        assert stated.text == (str in options) and stated.nullable == (type(None) in options)
        assert stated.free == any(option is Any or typing.get_origin(option) is dict for option in options)
        entry = real[name]
        made = entry.default_factory is not dataclasses.MISSING
        assert (stated.default is None) == (not made and entry.default is dataclasses.MISSING), name
        try:
            default = ast.literal_eval(stated.default or "''")
        except ValueError:
            continue  # made by a call, such as a section's
        if stated.default:
            assert default == (entry.default_factory() if callable(entry.default_factory) else entry.default), name


@pytest.mark.parametrize("kind", [*KINDS, RecipeClass.of(Rules)], ids=lambda kind: kind.name)
def test_the_sources_say_what_the_dataclasses_are(kind: RecipeClass[Any]) -> None:
    assert_same(kind.section, kind.load())


def test_lists_and_unions_of_dataclasses(tmp_path: Path) -> None:
    path = tmp_path / "rules.yaml"
    path.write_text(
        "rules: [{detector: drawn, rate: 0.5}, {detector: same, action: relabel}]\n"
        "one: {detector: drawn}\nold: {detector: same}\nmixed: [sample, {detector: drawn}]\nplaces: {a: 1}\n"
    )
    recipe = read_recipe(Rules, [path], ["--one.rate", "0.25", "--places.b", "2"], command="test")
    assert recipe == Rules(
        rules=[Drawn(detector="drawn", rate=0.5), Same(detector="same", action="relabel")],
        one=Drawn(detector="drawn", rate=0.25),
        old=Same(detector="same"),
        mixed=["sample", Drawn(detector="drawn")],
        places={"a": 1, "b": 2},
    )
    assert read_recipe(Rules, [], [], command="test") == Rules()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "rules: [{detector: same}, {detector: drawn, rat: 1}]",
            "item 2 of rules: there is no field rat (did you mean",
        ),
        ("rules: [{detector: same, rate: 0.5}]", "item 1 of rules: there is no field rate"),
        ("rules: [{detector: drown}]", "item 1 of rules: there is no detector 'drown' (did you mean 'drawn'?)"),
        ("rules: [{detector: drawn, action: msk}]", "item 1 of rules: action: msk is none of 'mask', 'relabel'"),
        ("rules: [{rate: 0.5}]", "item 1 of rules: it has no detector; give one of same, drawn"),
        ("rules: [{detector: drawn, rate: much}]", "item 1 of rules: rate: much is no float"),
        ("rules: 3", "rules: 3 is no list[Rule]"),
        ("rules: {detector: drawn, rate: 2}", "item 1 of rules: rate is 2; give at most 1"),
        ("one: {detector: same, rate: 0.5}", "one.rate: Same has no such field"),
        ("one: {detector: drawn, rate: much}", "one.rate: much is no float"),
        ("mixed: [a, {detector: drawn, rte: 1}]", "item 2 of mixed: there is no field rte (did you mean 'rate'?)"),
        ("mixed: [{rate: 1.0}]", "item 1 of mixed: detector is missing; give it"),
        ("share: half", "share: half is no Annotated[float, 'of all']"),
        ("rules: [{detector: drawn, rate: 2}]", "item 1 of rules: rate is 2; give at most 1"),
    ],
)
def test_a_mistake_in_an_item_names_both(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "rules.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as raised:
        read_recipe(Rules, [path], [], command="test")
    assert message in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "words",
    [
        ["pretrain", "--help"],
        ["pretrain", "sample", "--help"],
        ["pretrian"],
        ["pretrain", "smple"],
        ["pretrain", "sample", "--loop.epoch", "3"],
        ["pretrain", "WRONG"],
        ["judge", "sample", "--loop.epoch", "3"],
        ["mine", "sample", "--hihg", "0.5"],
        ["demo", "--fulll"],
        ["demo", "--data.transform.sise", "32"],
        ["finetune", "vqa", "sample", "--loop.epoch", "3"],
        ["evaluate", "nowhere", "--splt", "test"],
        ["study", "STUDY"],
    ],
    ids=" ".join,
)
def test_a_mistyped_name_is_told_before_anything_costly_is_imported(words: list[str], tmp_path: Path) -> None:
    (tmp_path / "wrong.yaml").write_text("loop: {epoch: 3}")
    (tmp_path / "study.yaml").write_text("referenc: InfoNCE")
    files = {"WRONG": "wrong.yaml", "STUDY": "study.yaml"}
    words = [str(tmp_path / files[word]) if word in files else word for word in words]
    code = (
        "import sys\nfrom truepair.cli.main import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "print([name for name in ('torch', 'transformers', 'datasets', 'numpy') if name in sys.modules])"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.stdout.splitlines()[-1] == "[]"
    assert "--help" in words or (done.stderr.startswith("truepair: ") and "did you mean '" in done.stderr)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.0  # of the CPU, however busy


def test_the_options_of_a_command_and_the_fields_of_its_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    parser = CommandParser("truepair try", PRETRAIN.section)
    parser.option("data", metavar="PAIRS")
    parser.option("only", nargs="+", default=[])
    parser.option("fast", action="store_true")
    words = ["--fast", "--data=a.csv", "--only", "a", "b", "--data.transform.size", "32", "--model.options.depth", "2"]
    call = parser.read([*words, "--optimizer.learning_rate", "-1e-3"])
    assert (call.fast, call.data, call.only) == (True, "a.csv", ["a", "b"])
    stated = [("data.transform.size", "32"), ("model.options.depth", "2"), ("optimizer.learning_rate", "-1e-3")]
    assert call.stated == stated
    with pytest.raises(SystemExit) as done:
        parser.read(["--help"])
    said = capsys.readouterr().out
    assert done.value.code == 0
    for line in ("--data PAIRS", "--loop.epochs EPOCHS", "--srcl.alpha.shape SHAPE", "an item of data.sources"):
        assert line in said
    assert "passes over the training pairs. (int, 1 or more, default: 30)" in " ".join(said.split())


def test_help_on_one_field(capsys: pytest.CaptureFixture[str]) -> None:
    parser = CommandParser("truepair try", PRETRAIN.section)

    def said(word: str) -> str:
        with pytest.raises(SystemExit) as done:
            parser.read(["a.csv", word, "--loop.epochs", "3"])
        assert done.value.code == 0
        return " ".join(capsys.readouterr().out.split())

    sources = said("--data.sources.help")
    assert sources.startswith("--data.sources: files, folders or hub names, concatenated")
    assert 'an item of data.sources: SourceConfig source: "sample" (bundled)' in sources
    assert "max_skipped: largest share of rows that may be left out; by default" in sources
    assert "the fields of loop: LoopConfig epochs:" in said("--loop.help")
    assert said("--loop.epochs.help").startswith(
        "--loop.epochs: passes over the training pairs. (int, 1 or more, default: 30)"
    )
    with pytest.raises(ConfigError, match=r"no field loop\.epoch to help on \(did you mean 'loop\.epochs'\?\)"):
        parser.read(["--loop.epoch.help"])


def test_sources_may_be_a_word_a_list_or_fields(tmp_path: Path) -> None:
    from truepair.data.source import SourceConfig
    from truepair.methods.recipe import PretrainRecipe

    def sources(words: list[str], text: str = "data: {sources: low.csv}") -> list[object]:
        (tmp_path / "recipe.yaml").write_text(text)
        data = read_recipe(PretrainRecipe, [tmp_path / "recipe.yaml"], words, command="truepair try").data
        return [data.sources, data.train, data.test]

    fields = SourceConfig(source="a.csv", columns=("image", "caption"))
    assert sources([]) == [["low.csv"], None, None]
    assert sources(["--data.sources", "*.tar"]) == [["*.tar"], None, None]
    assert sources(["--data.sources", "shard-{000..331}.tar"]) == [["shard-{000..331}.tar"], None, None]
    assert sources(["--data.sources", "[a.csv, b.csv]"]) == [["a.csv", "b.csv"], None, None]
    assert sources(["--data.sources", "{source: a.csv, columns: [image, caption]}"]) == [[fields], None, None]
    assert sources(["--data.train", "a.csv", "--data.test", "b.csv"]) == [None, ["a.csv"], ["b.csv"]]
    assert sources(["--data.sources", "a.csv"], "data: {train: low.csv, test: b.csv}") == [["a.csv"], None, ["b.csv"]]
    with pytest.raises(ConfigError, match="both say what to train on; give one of them"):
        sources(["--data.sources", "a.csv", "--data.train", "b.csv"])
    with pytest.raises(ConfigError, match=r"^data\.sources is empty; name at least one"):
        sources(["--data.sources", "[]"])


def test_a_mistake_names_what_states_it(tmp_path: Path) -> None:
    from truepair.methods.recipe import PretrainRecipe

    (tmp_path / "low.yaml").write_text("data: {groups: many}\nloop: {epochs: 3}")
    (tmp_path / "high.yaml").write_text("loop: {epochs: 4}")
    paths = [tmp_path / "low.yaml", tmp_path / "high.yaml"]
    with pytest.raises(ConfigError, match=r"^/.*low\.yaml: data\.groups: many is no int$"):
        read_recipe(PretrainRecipe, paths, [], command="truepair try")
    with pytest.raises(ConfigError, match=r"^data\.groups: few is no int$"):
        read_recipe(PretrainRecipe, paths, ["--data.groups", "few"], command="truepair try")
    (tmp_path / "high.yaml").write_text("loop: {epochs: four}\ndata: {groups: 3}")
    with pytest.raises(ConfigError, match=r"^/.*high\.yaml: loop\.epochs: four is no int$"):
        read_recipe(PretrainRecipe, paths, [], command="truepair try")
