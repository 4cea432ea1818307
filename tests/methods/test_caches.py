"""A run's frozen states: of each split what a cache of its own would hold, with encoders hashed once."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.tasks.test_mining import recipe_of
from truepair.cli.arguments import read_recipe
from truepair.data import loading
from truepair.data.left_out import LeftOut
from truepair.data.splits import build_tables
from truepair.errors import DataError
from truepair.judges.evidence import pooled_captions, pooled_images
from truepair.methods import caches
from truepair.methods.caches import StateCaches
from truepair.methods.recipe import PretrainRecipe
from truepair.methods.student import build_student


def recipe_with(squares: Path, folder: Path, **model: object) -> PretrainRecipe:
    recipe = read_recipe(PretrainRecipe, [recipe_of(squares, folder)], [], command="test")
    return replace(recipe, model=replace(recipe.model, **model))


def caches_of(recipe: PretrainRecipe, lines: list[str], *, means: bool = False) -> StateCaches:
    student = build_student(recipe, build_tables(recipe.data).train, lambda _: None)
    return StateCaches(recipe, student, LeftOut(lines.append), means=means)


def test_splits_of_one_cache_hold_what_their_own_would(squares: Path, tmp_path: Path) -> None:
    apart = recipe_with(squares, tmp_path, pool_images=True)
    together = recipe_with(squares, tmp_path, pool_images=True, cache_sources=True)
    tables = build_tables(apart.data)
    assert tables.test is not None
    ones, whole = caches_of(apart, []), caches_of(together, [])
    for table, views in ((tables.train, 1), (tables.test, 1), (tables.train, 2)):
        (_, wanted), (_, found) = ones.images(table, views), whole.images(table, views)
        assert wanted is not None and found is not None and len(found.views) == views
        assert torch.equal(found[:], wanted[:]) and found[:].shape[1] == 1


def test_encoders_are_hashed_once(squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[str] = []
    fingerprint = caches.encoder_fingerprint

    def counted(encoder: torch.nn.Module) -> str:
        """The fingerprint, noted."""
        hashed.append(type(encoder).__name__)
        return fingerprint(encoder)

    monkeypatch.setattr(caches, "encoder_fingerprint", counted)
    monkeypatch.setattr("truepair.models.encoders.frozen_images.encoder_fingerprint", counted)
    monkeypatch.setattr("truepair.models.encoders.frozen_captions.encoder_fingerprint", counted)
    recipe = recipe_with(squares, tmp_path)
    run, tables = caches_of(recipe, []), build_tables(recipe.data)
    assert tables.test is not None
    for table in (tables.train, tables.test):
        run.images(table)
        run.captions(caption for row in table.values("captions") for caption in row)
    assert sorted(hashed) == ["ConvStem", "TextEncoder"]


@pytest.mark.parametrize("pooled", [False, True])
def test_means_alone_are_those_of_the_states_under_another_key(squares: Path, tmp_path: Path, pooled: bool) -> None:
    recipe = recipe_with(squares, tmp_path, cache_folder=str(tmp_path / "run"), pool_images=pooled)
    apart = replace(recipe, model=replace(recipe.model, cache_folder=str(tmp_path / "means")))
    table = build_tables(recipe.data).train
    texts = list(table.captions())
    (_, states), words = caches_of(recipe, []).images(table), caches_of(recipe, []).captions(texts)
    run = caches_of(apart, [], means=True)
    (_, mean), sentences = run.images(table), run.captions(texts)
    assert states is not None and words is not None and mean is not None and sentences is not None
    assert mean[:].shape[1] == 1 and {count for _, count in sentences.places.values()} == {1}
    torch.testing.assert_close(pooled_images(mean), pooled_images(states), atol=1e-3, rtol=0)
    torch.testing.assert_close(pooled_captions(sentences, texts), pooled_captions(words, texts), atol=1e-3, rtol=0)
    assert mean.nbytes * states.views[0].shape[0] == states.nbytes
    assert sentences.tokens.nbytes * 2 < words.tokens.nbytes and sentences.tokens.key != words.tokens.key
    assert (mean.views[0].key == states.views[0].key) == pooled  # a run that pools shares them


def test_means_are_of_states_that_a_run_has_kept(squares: Path, tmp_path: Path) -> None:
    recipe = recipe_with(squares, tmp_path)
    table = build_tables(recipe.data).train
    run = caches_of(recipe, [])
    (_, states), words = run.images(table), run.captions(table.captions())
    there = sorted(path.name for path in (tmp_path / "states").iterdir())
    other = caches_of(recipe, [], means=True)
    (_, found), read = other.images(table), other.captions(table.captions())
    assert states is not None and words is not None and found is not None and read is not None
    assert found.views[0].path == states.views[0].path and read.tokens.path == words.tokens.path
    assert sorted(path.name for path in (tmp_path / "states").iterdir()) == there


def test_other_weights_are_other_states(squares: Path, tmp_path: Path) -> None:
    recipe = recipe_with(squares, tmp_path)
    table = build_tables(recipe.data).train
    other = replace(recipe, loop=replace(recipe.loop, seed=recipe.loop.seed + 1))
    (_, first), (_, second) = caches_of(recipe, []).images(table), caches_of(other, []).images(table)
    assert first is not None and second is not None and not torch.equal(first[:], second[:])


def test_unreadable_rows_of_the_sources_are_left_out_of_their_split(squares: Path, tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for file in squares.iterdir():
        (pictures / file.name).write_bytes(b"no picture" if file.name == "red-small-3.png" else file.read_bytes())
    recipe = recipe_with(pictures, tmp_path, cache_sources=True)
    tables, lines = build_tables(recipe.data), list[str]()
    assert tables.test is not None
    run = caches_of(replace(recipe, data=replace(recipe.data, max_bad_fraction=0.2)), lines)
    train, _ = run.images(tables.train)
    assert len(train) == len(tables.train) and not lines
    test, states = run.images(tables.test)
    assert states is not None and len(test) == len(states) == len(tables.test) - 1 and "left out: 1 of" in lines[0]
    with pytest.raises(DataError, match=r"cannot be read.*raise data\.max_bad_fraction"):
        caches_of(replace(recipe, data=replace(recipe.data, max_bad_fraction=0.0)), []).images(tables.test)


def test_without_a_cache_there_are_no_states(squares: Path, tmp_path: Path) -> None:
    recipe = recipe_with(squares, tmp_path, cache_images=False, cache_captions=False)
    table = build_tables(recipe.data).train
    run = caches_of(recipe, [])
    assert run.images(table) == (table, None) and run.captions(["a red square"]) is None


@pytest.mark.parametrize("workers", [0, 1])
def test_loading_processes_are_those_of_the_run(
    workers: int, squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    class Reader(loading.BatchReader[object]):
        """Notes how many processes read."""

        def __init__(self, *arguments: object, workers: int, **options: object) -> None:
            asked.append(workers)
            super().__init__(*arguments, workers=workers, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(loading, "BatchReader", Reader)
    recipe = recipe_with(squares, tmp_path)
    recipe = replace(recipe, loop=replace(recipe.loop, workers=workers))
    _, states = caches_of(recipe, []).images(build_tables(recipe.data).train)
    assert states is not None and asked == [workers]
