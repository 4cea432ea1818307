"""A run folder keeps one run: another method in it is refused, what may change is not."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from truepair.cli.run_folder import RECIPE, keep_recipe
from truepair.errors import ConfigError
from truepair.methods.recipe import PretrainRecipe

FIRST = PretrainRecipe()


def changed(section: str, **fields: Any) -> PretrainRecipe:
    return replace(FIRST, **{section: replace(getattr(FIRST, section), **fields)})


def begun(folder: Path, *, finished: bool) -> Path:
    assert keep_recipe(FIRST, folder) is None
    (folder / ("model" if finished else "checkpoints/step-00000003")).mkdir(parents=True)
    return folder


@pytest.mark.parametrize("finished", [False, True])
def test_another_method_is_refused(tmp_path: Path, finished: bool) -> None:
    folder = begun(tmp_path, finished=finished)
    before = (folder / RECIPE).read_bytes()
    smoother = replace(FIRST, objectives=replace(FIRST.objectives, itc=replace(FIRST.objectives.itc, smoothing=0.5)))
    with pytest.raises(ConfigError, match=r"run with objectives\.itc\.smoothing 0\.0, now it is 0\.5; give another"):
        keep_recipe(smoother, folder)
    with pytest.raises(ConfigError, match=r"data\.group_seed"):
        keep_recipe(changed("data", group_seed=1), folder)
    assert (folder / RECIPE).read_bytes() == before


def test_a_run_goes_on_with_another_learning_rate_but_is_not_finished_with_it(tmp_path: Path) -> None:
    slower = changed("optimizer", learning_rate=1e-5)
    assert keep_recipe(slower, begun(tmp_path / "stopped", finished=False)) is not None
    with pytest.raises(ConfigError, match=r"optimizer\.learning_rate 0\.0001, now it is 1e-05"):
        keep_recipe(slower, begun(tmp_path / "done", finished=True))
    for other in (changed("loop", workers=7), changed("evaluation", rerank=3), changed("data", sources=["moved.json"])):
        keep_recipe(other, tmp_path / "done")


def test_a_folder_without_a_run_takes_any_recipe(tmp_path: Path) -> None:
    keep_recipe(FIRST, tmp_path)
    keep_recipe(changed("data", group_seed=1), tmp_path)


def test_fields_of_another_version_do_not_count(tmp_path: Path) -> None:
    folder = begun(tmp_path, finished=True)
    _, text = (folder / RECIPE).read_text(encoding="utf-8").split("\n", 1)  # older ones begin without a sum
    (folder / RECIPE).write_text(text.replace("  group_seed: 0\n", "  gone_since: 4\n"), encoding="utf-8")
    keep_recipe(changed("data", group_seed=1), folder)


@pytest.mark.parametrize("text", ["", "# nothing", "[1, 2]", "data: {", "\x00", None])
def test_a_recipe_that_is_not_as_it_was_written_is_no_guard(
    tmp_path: Path, text: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = begun(tmp_path, finished=False)
    whole = (folder / RECIPE).read_text()
    (folder / RECIPE).write_text(whole.replace("group_seed: 0", "group_seed: 1") if text is None else text)
    with pytest.raises(ConfigError, match=r"recipe\.yaml is not as the run wrote it, and no checkpoint says which"):
        keep_recipe(FIRST, folder)
    (folder / "checkpoints/step-00000003/state.json").write_text('{"identity": {}}')
    keep_recipe(FIRST, folder)
    assert "is not as the run wrote it, and is written anew; its checkpoints say what it was" in capsys.readouterr().err
    assert (folder / RECIPE).read_text() == whole


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"the run folder .*file cannot be used .*give another"):
        keep_recipe(FIRST, tmp_path / "file")
    with pytest.raises(ConfigError, match="cannot be used"):
        keep_recipe(FIRST, tmp_path / "file" / "below")
