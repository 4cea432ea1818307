"""Bounds of settings: what they hold, how they read, and that every number of every command's settings has them."""

import re
from dataclasses import dataclass, field
from typing import Any

import pytest

from truepair.cli.doctor import DOCTOR
from truepair.cli.embed import EMBED
from truepair.cli.fields import RecipeClass, Section
from truepair.cli.run_folder import PRETRAIN
from truepair.cli.tasks import TASKS
from truepair.cli.values import check_names, make
from truepair.errors import ConfigError
from truepair.settings import Natural, Positive, Share, Weight, Within, check_settings, check_types, is_of


@dataclass(frozen=True)
class Inner:
    shares: list[Share] = field(default_factory=list)
    limit: Positive | None = None


@dataclass(frozen=True)
class Outer:
    rate: float = 1.0
    seed: Natural = 0
    weight: Weight = 0.5
    inner: Inner = field(default_factory=Inner)
    many: list[Inner] = field(default_factory=list)
    free: dict[str, Any] = field(default_factory=dict)


@pytest.mark.parametrize(
    ("bounds", "inside", "outside", "words"),
    [
        (Within(1), [1, 10**9], [0, -1, 0.99], "1 or more"),
        (Within(0, above=True), [1e-9], [0, -1], "a number above 0"),
        (Within(0, 1), [0, 0.5, 1], [-1e-9, 1.001], "a number from 0 to 1"),
        (Within(0, 1, below=True), [0, 0.999], [1], "a number from 0 to below 1"),
        (Within(0, 1, above=True), [1e-9, 1], [0], "a number above 0, up to 1"),
        (Within(0, 1, above=True, below=True), [0.5], [0, 1], "a number above 0, below 1"),
    ],
)
def test_bounds(bounds: Within, inside: list[float], outside: list[float], words: str) -> None:
    assert all(bounds.holds(value) for value in inside)
    assert not any(bounds.holds(value) for value in (*outside, float("nan")))
    assert bounds.words == words


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (Outer(seed=-5), "seed is -5; give 0 or more"),
        (Outer(rate=float("nan")), "rate is nan; give a finite number"),
        (Outer(weight=float("inf")), "weight is inf; give a finite number"),
        (Outer(seed=10**40), "seed is a number of 136 bits; give one of 63 or fewer"),
        (Outer(inner=Inner(shares=[0.5, 1.5])), "inner.shares is 1.5; give a number from 0 to 1"),
        (Outer(many=[Inner(), Inner(limit=0)]), "many.limit is 0; give 1 or more"),
        (Outer(free={"depth": [1, float("-inf")]}), "free.depth is -inf; give a finite number"),
    ],
)
def test_a_number_out_of_bounds_is_named(settings: Outer, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        check_settings(settings)
    assert str(error.value) == message
    with pytest.raises(ConfigError, match=r"^loop\."):
        check_settings(settings, "loop")


def test_good_settings_pass() -> None:
    check_settings(
        Outer(inner=Inner(shares=[0.0, 1.0], limit=1), many=[Inner()], free={"a": True, "b": None, "c": "x"})
    )


@pytest.mark.parametrize(
    ("hint", "fits", "others"),
    [
        (int, [0, -1], [True, 1.0, "1", None, [1]]),
        (float, [0, 1.5], [True, "1", None]),
        (bool, [True], [1, "yes", None]),
        (Share | None, [0.5, 1, None], [True, "x", [0.5]]),
        (list[Natural], [[], [1, 2]], [["x"], [None], [True], {"a": 1}, "ab"]),
        (dict[str, Any], [{}, {"a": [1]}], [{1: 2}, [], "a"]),
        (dict[str, dict[str, int]], [{"a": {"b": 1}}], [{"a": 1}, {"a": {"b": "c"}}]),
    ],
    ids=str,
)
def test_types(hint: Any, fits: list[Any], others: list[Any]) -> None:
    assert all(is_of(value, hint) for value in fits)
    assert not any(is_of(value, hint) for value in others)


def test_a_value_of_another_type_is_named() -> None:
    with pytest.raises(ConfigError, match=r"^limit of the model is 'x'; give a value of type int$"):
        check_types({"limit": "x"}, Inner, "the model")
    with pytest.raises(ConfigError, match=r"^shares is \['x'\]; give a value of type list of float$"):
        check_types({"shares": ["x"]}, Inner, "")


SETTINGS = {
    "pretrain": PRETRAIN,
    "doctor": DOCTOR,
    "embed": EMBED,
    "source": RecipeClass("truepair.data.source", "SourceConfig"),
    **{name: task.evaluation for name, task in TASKS.items()},
}

OF_ANY_SIGN = {"group_seed", "bias_init", "length_penalty"}

CHECKED_BY_THE_CLASS = {
    "batch", "crop_scale", "low", "high", "delta", "tau_w", "share", "below", "probability", "mask_share",
    "random_share", "start", "end", "until", "queue_size", "search_space", "group_size", "alpha",
}  # fmt: skip # several numbers bound each other, or the class is of a room with words of its own


def unbounded(section: Section) -> set[str]:
    """The numbers of a class and of those in it that state no bounds."""
    found = {
        name
        for name, one in section.fields.items()
        if re.search(r"\b(int|float)\b", one.type) and not one.bounds and not one.free
    }
    return found.union(*(unbounded(part) for one in section.fields.values() for part in (*one.sections, *one.items)))


@pytest.mark.parametrize("command", SETTINGS)
def test_every_number_of_every_command_has_bounds(command: str) -> None:
    assert unbounded(SETTINGS[command].section) <= OF_ANY_SIGN | CHECKED_BY_THE_CLASS


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"loop": {"workers": -1}}, "loop.workers is -1; give 0 or more"),
        ({"loop": {"seed": None}}, None),
        ({"optimizer": {"betas": [0.9, 1.0]}}, "optimizer.betas is 1.0; give a number from 0 to below 1"),
        ({"data": {"max_bad_fraction": float("nan")}}, "data.max_bad_fraction is nan; give a finite number"),
        ({"data": {"group_seed": 10**30}}, "data.group_seed is a number of 100 bits; give one of 63 or fewer"),
        ({"evaluation": {"batch_size": 0}}, "evaluation.batch_size is 0; give 1 or more"),
        ({"model": {"options": {"temperature_init": float("inf")}}}, "model.options.temperature_init is inf; give a f"),
        ({"objectives": {"itc": 5}}, "objectives.itc: 5 is no group of fields"),
        ({"loop": {"seed": "x" * 100_000}}, f"loop.seed: {'x' * 200}... is no int"),
    ],
)
def test_a_recipe_with_a_wrong_number_is_refused_in_one_line(values: dict[str, Any], message: str | None) -> None:
    if message is None:  # where names are checked, before anything is imported
        with pytest.raises(ConfigError, match=r"^r\.yaml: loop\.seed is null; give a value of type int, or leave"):
            check_names(values, PRETRAIN.section, "r.yaml")
        return
    with pytest.raises(ConfigError) as error:
        make(PRETRAIN, values)
    assert str(error.value).startswith(message)
