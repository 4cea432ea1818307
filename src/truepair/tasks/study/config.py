"""A study as its file states it."""

from dataclasses import dataclass, field, fields
from typing import Any, Literal, Self, get_origin

from truepair.errors import ConfigError, nearest
from truepair.settings import Natural, Positive, Share, check_settings, check_types

StudyQuestion = Literal["batches", "density", "srcl", "mafa", "naive"]

QUESTION_ARMS: dict[StudyQuestion, list[str]] = {
    "batches": ["*GRIT*"],
    "density": ["*"],
    "srcl": ["*SRCL*"],
    "mafa": ["*GRIT*", "*ECM*", "*MAFA*", "S-ITC*"],
    "naive": ["*"],
}
"""Questions of a study's page -> patterns of the arms each is about, where the study file names none."""

PREPARE_COMMANDS = ("pretrain", "judge", "mine")


@dataclass(frozen=True, kw_only=True)
class QuestionArms:
    """The arms that a question's figures show, and those it compares.

    Attributes:
        arms: names, or patterns of names with ``*`` and ``?``; empty: found by the terms in the names of the arms.
        pairs: two names each: what is gained by the first instead of the second, cell by cell.
    """

    arms: list[str] = field(default_factory=list)
    pairs: list[list[str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        wrong = [pair for pair in self.pairs if len(pair) != 2]
        if wrong:
            raise ConfigError(f"questions: pairs holds {wrong[0]!r}; give two arms each")


@dataclass(frozen=True, kw_only=True)
class LayerConfig:
    """How a run differs from the others of its study.

    Attributes:
        presets: recipes that lie under those of the study, as in ``truepair train PRESET sample``.
        recipes: recipes that lie over them.
        fields: dotted names of recipe fields and their values, over everything else. ``{name}`` in a text stands for
            the folder of what ``prepare`` calls by that name.
    """

    presets: list[str] = field(default_factory=list)
    recipes: list[str] = field(default_factory=list)
    fields: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ArmConfig(LayerConfig):
    """A method of the study.

    Attributes:
        data: kinds of data that it runs on; all when empty.
        seeds: how many of the study's seeds it runs on, the first ones; all when absent.
    """

    data: list[str] = field(default_factory=list)
    seeds: Positive | None = None


@dataclass(frozen=True, kw_only=True)
class PrepareConfig(LayerConfig):
    """Something that arms need, made once for each kind of data and each draw of concepts by an ordinary command.

    Attributes:
        command: pretrain, judge or mine.
        per_seed: make it for each seed of the study as well.
        judge: for mine: the folder of the judge, ``"{name}"``.
        low: for mine: least probability of what is recorded.
        high: for mine: from here on the action is "relabel".
    """

    command: str
    per_seed: bool = False
    judge: str | None = None
    low: Share = 0.1
    high: Share = 0.5

    def __post_init__(self) -> None:
        if self.command not in PREPARE_COMMANDS:
            raise ConfigError(f"prepare: there is no command '{self.command}'; give {', '.join(PREPARE_COMMANDS)}")
        if (self.command == "mine") != (self.judge is not None):
            raise ConfigError("prepare: 'judge' names the judge of the command mine; give it there, and only there")


@dataclass(frozen=True, kw_only=True)
class StudyConfig:
    """A grid of arms, data and seeds.

    Attributes:
        title: heading of its page.
        reference: arm that the others are compared with.
        ceiling: arm whose gain over the reference counts as 100 %; absent where the truth of the training pairs is not
            known.
        arms: name of each method, and what is particular about it.
        recipes: bundled recipes, or files beside the study's, that lie under all runs.
        fields: dotted names of recipe fields and their values, for all runs.
        data: name of each kind of data, and fields that choose it.
        data_seeds: draws of concepts; ``data.group_seed`` of the runs.
        seeds: seeds of initialisation and order; ``loop.seed`` of the runs.
        prepare: what arms need: judges, seed models, ledgers.
        questions: what the page asks of which arms.
        detectors: figures of detectors against people's judgements for the page, a file beside the study's; absent: the
            ``detectors.json`` of the study's folder, if there is one.
    """

    title: str
    reference: str
    arms: dict[str, ArmConfig]
    recipes: list[str]
    ceiling: str = ""
    fields: dict[str, Any] = field(default_factory=dict)
    data: dict[str, dict[str, Any]] = field(default_factory=lambda: {"all": {}})
    data_seeds: list[Natural] = field(default_factory=lambda: [0])
    seeds: list[Natural] = field(default_factory=lambda: [0])
    prepare: dict[str, PrepareConfig] = field(default_factory=dict)
    questions: dict[str, QuestionArms] = field(default_factory=dict)
    detectors: str = ""

    def __post_init__(self) -> None:
        for role, name in (("reference", self.reference), ("ceiling", self.ceiling)):
            if name not in self.arms and (name or role == "reference"):
                raise ConfigError(f"the {role} '{name}' is no arm of the study{nearest(name, self.arms)}")
        for name, arm in self.arms.items():
            for data in arm.data:
                if data not in self.data:
                    raise ConfigError(f"arm '{name}' names data '{data}', which is not there{nearest(data, self.data)}")
        for question in self.questions:
            if question not in QUESTION_ARMS:
                raise ConfigError(f"questions: there is no '{question}'{nearest(question, QUESTION_ARMS)}")
        if not (self.data and self.data_seeds and self.seeds):
            raise ConfigError("a study needs data, data_seeds and seeds; give at least one of each")

    @classmethod
    def from_values(cls, values: dict[str, Any], where: str) -> Self:
        """Read what a YAML file holds.

        Args:
            values: its groups.
            where: the file, for messages.

        Raises:
            ConfigError: an unknown field (the nearest is named), or one that is missing or of a wrong kind.
        """
        made = dict(values)
        for group, kind in (("arms", ArmConfig), ("prepare", PrepareConfig), ("questions", QuestionArms)):
            if group in values:
                parts = _group(values[group], f"{where}: {group}")
                made[group] = {
                    name: _made(kind, part or {}, f"{where}: {group}: {name}") for name, part in parts.items()
                }
        study: Self = _made(cls, made, where)
        return study


def _made(kind: Any, values: Any, where: str) -> Any:
    """A dataclass of some values."""
    known = {entry.name: entry for entry in fields(kind)}
    for name, value in _group(values, where).items():
        if name not in known:
            raise ConfigError(f"{where}: there is no field {name}{nearest(name, known)}")
        wanted = get_origin(known[name].type) or known[name].type
        if wanted in (list, dict, str) and not isinstance(value, wanted):
            raise ConfigError(f"{where}: {name} must be a {wanted.__name__}, not a {type(value).__name__}")
    try:
        check_types(values, kind, "")
        made = kind(**values)
        check_settings(made)
        return made
    except TypeError as error:  # a field without default
        raise ConfigError(f"{where}: {str(error).partition('() ')[2] or error}") from error
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error


def _group(values: Any, where: str) -> dict[str, Any]:
    if not isinstance(values, dict):
        raise ConfigError(f"{where} must hold names and values, not a {type(values).__name__}")
    return values
