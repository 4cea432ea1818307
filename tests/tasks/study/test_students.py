"""Students that start alike are copies: the same weights, no shared ones, the same random numbers afterwards."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.tasks.test_mining import recipe_of
from truepair.cli.arguments import read_recipe
from truepair.data.splits import build_tables
from truepair.data.table import PairTable
from truepair.methods.recipe import PretrainRecipe
from truepair.methods.student import build_student
from truepair.models.open import OpenedModel
from truepair.tasks.study import runner as students
from truepair.tasks.study.runner import StudentMemory


@pytest.fixture
def recipe(squares: Path, tmp_path: Path) -> PretrainRecipe:
    trained = read_recipe(PretrainRecipe, [recipe_of(squares, tmp_path)], [], command="test")
    student = build_student(trained, build_tables(trained.data).train, lambda _: None)
    student.preprocessing.save(tmp_path / "tokens")
    return replace(trained, text=replace(trained.text, tokenizer=str(tmp_path / "tokens")))


def weights_of(student: OpenedModel) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in student.model.state_dict().items()}


def test_copies_are_what_would_be_built(recipe: PretrainRecipe, monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[int] = []

    def counted(recipe: PretrainRecipe, train: PairTable, say: object) -> OpenedModel:
        """The student, noted."""
        built.append(recipe.loop.seed)
        return build_student(recipe, train, lambda _: None)

    monkeypatch.setattr(students, "build_student", counted)
    memory, table = StudentMemory(), build_tables(recipe.data).train
    other = replace(recipe, loop=replace(recipe.loop, seed=5))
    warmer = replace(recipe, model=replace(recipe.model, options={**recipe.model.options, "temperature_init": 0.2}))
    longer = replace(recipe, loop=replace(recipe.loop, epochs=9), srcl=None)  # starts as `recipe` does
    for asked in (recipe, longer, other, warmer, recipe):
        wanted = build_student(asked, table, lambda _: None)
        following = torch.rand(3)
        torch.rand(7)
        found = memory.build(asked, table, print)
        assert torch.equal(torch.rand(3), following)
        for name, value in weights_of(wanted).items():
            assert torch.equal(found.model.state_dict()[name], value)
        assert found.model.config.to_dict() == wanted.model.config.to_dict()
        with torch.no_grad():
            next(found.model.parameters()).add_(1.0)  # training moves a copy, not what is remembered
    assert built == [recipe.loop.seed, 5, recipe.loop.seed, recipe.loop.seed]


def test_a_tokenizer_of_the_captions_is_not_remembered(squares: Path, tmp_path: Path) -> None:
    trained = read_recipe(PretrainRecipe, [recipe_of(squares, tmp_path)], [], command="test")
    table = build_tables(trained.data).train
    memory = StudentMemory()
    first = memory.build(trained, table, lambda _: None)
    second = memory.build(trained, table.select(list(range(4))), lambda _: None)
    assert len(first.preprocessing.tokenizer) != len(second.preprocessing.tokenizer)
