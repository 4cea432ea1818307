"""A wrong value is named by its field, whatever jsonargparse makes of it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NoReturn

import pytest
from jsonargparse import ArgumentParser

from truepair.cli.arguments import read_recipe
from truepair.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Ramp:
    """A schedule.

    Attributes:
        shape: of the ramp.
    """

    shape: Literal["flat", "steep"] = "flat"


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Numbers.

    Attributes:
        low: a number.
        ramp: a number or a schedule.
    """

    low: float = 0.1
    ramp: float | Ramp = 0.5

    def __post_init__(self) -> None:
        if self.low > 1:
            raise ConfigError(f"weights.low is {self.low:g}; give at most 1")


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A recipe.

    Attributes:
        epochs: a number.
        weights: may be absent.
        all_weights: several.
    """

    epochs: int = 1
    weights: Weights | None = None
    all_weights: list[Weights] = field(default_factory=list)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--epochs", "two"], "epochs: two is no int"),
        (["--weights.low", "two"], "weights.low: two is no float"),
        (["--weights.low", "2"], "weights.low is 2; give at most 1"),
        (["--weights.ramp.shape", "stepp"], "weights.ramp.shape: stepp is none of 'flat', 'steep'"),
        (
            ["--all_weights", "[{lwo: 2}]"],
            "truepair try: item 1 of all_weights: there is no field lwo (did you mean 'low'?)",
        ),
    ],
)
def test_one_plain_line(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        read_recipe(Sample, [], words, command="truepair try")
    assert str(raised.value) == message


def test_the_files_are_named_before(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("weights: {ramp: {shape: stepp}}")
    with pytest.raises(ConfigError) as raised:
        read_recipe(Sample, [path], [], command="truepair try")
    assert str(raised.value) == f"{path}: weights.ramp.shape: stepp is none of 'flat', 'steep'"


@pytest.mark.parametrize("text", ["", "anything else", "Parser", "of two\nlines"])
def test_what_it_does_not_know_stays(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> NoReturn:
        raise ValueError(text)

    monkeypatch.setattr(ArgumentParser, "instantiate", refuse)
    with pytest.raises(ConfigError) as raised:
        read_recipe(Sample, [], [], command="truepair try")
    assert str(raised.value) == " ".join(text.split())
