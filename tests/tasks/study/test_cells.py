"""The grid of a study: which runs, in which order, on which recipes."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from truepair.cli.arguments import lay_recipe, nested
from truepair.engine.loop.config import LoopConfig
from truepair.errors import ConfigError
from truepair.methods.recipe import PretrainRecipe
from truepair.tasks.study.cells import StudyRun, runs_of, runs_of_arms, slug
from truepair.tasks.study.config import ArmConfig, PrepareConfig, StudyConfig


def read(names: Sequence[str], fields: Mapping[str, Any], where: str) -> PretrainRecipe:
    assert names == ["sample"]
    return lay_recipe(PretrainRecipe, [(where, nested(name, value)) for name, value in fields.items()])


def study(**changes: Any) -> StudyConfig:
    ledger = {"detector": "recorded", "ledger": "{mined}/ledger", "action": "relabel"}
    values: dict[str, Any] = {
        "title": "",
        "recipes": ["sample"],
        "fields": {"loop.epochs": 3},
        "reference": "plain",
        "ceiling": "mined",
        "data": {"few": {"data.groups": 3}, "all of it": {}},
        "data_seeds": [0, 4],
        "seeds": [7, 8],
        "prepare": {
            "judge": PrepareConfig(command="judge", fields={"data.other_groups": True}),
            "mined": PrepareConfig(command="mine", judge="{judge}", low=0.1, high=0.6),
            "seed": PrepareConfig(command="pretrain", per_seed=True, fields={"loop.epochs": 1}),
        },
        "arms": {
            "plain": ArmConfig(),
            "mined": ArmConfig(fields={"relations.rules": [ledger], "loop.epochs": 5}),
            "guided": ArmConfig(fields={"relations.guide_model": "{seed}/model"}, data=["few"], seeds=1),
        },
    }
    return StudyConfig(**{**values, **changes})


def arms_of(runs: list[StudyRun]) -> list[StudyRun]:
    return [run for run in runs if run.arm is not None]


def test_every_arm_meets_every_draw_and_seed(tmp_path: Path) -> None:
    cells = arms_of(runs_of(study(), tmp_path, read))
    keys = [(cell.arm, cell.data, cell.data_seed, cell.seed) for cell in cells]
    assert len(set(keys)) == len(keys) == 2 * 8 + 2
    assert {key for key in keys if key[0] == "guided"} == {("guided", "few", 0, 7), ("guided", "few", 4, 7)}
    assert [seed for *_, seed in keys] == sorted(seed for *_, seed in keys)
    for cell in cells:
        assert cell.recipe.loop.seed == cell.seed and cell.recipe.data.group_seed == cell.data_seed
        assert cell.recipe.data.groups == (3 if cell.data == "few" else 0)
        assert cell.recipe.loop.epochs == (5 if cell.arm == "mined" else 3)


def test_what_is_needed_comes_first_and_once(tmp_path: Path) -> None:
    runs = runs_of(study(), tmp_path, read)
    places = {run.folder: place for place, run in enumerate(runs)}
    assert len(places) == len(runs)
    assert all(places[needed] < places[run.folder] for run in runs for needed in run.needs)
    judges = [run for run in runs if run.command == "judge"]
    assert len(judges) == 4 and all(run.recipe.data.other_groups for run in judges)
    mined = next(run for run in runs if run.command == "mine")
    assert mined.judge in places and (mined.low, mined.high) == (0.1, 0.6)
    cell = next(run for run in runs if run.arm == "mined" and run.data == mined.data)
    assert cell.recipe.relations.rules[0]["ledger"] == f"{mined.folder}/ledger"


def test_a_seed_model_may_be_made_for_each_seed(tmp_path: Path) -> None:
    guided = ArmConfig(fields={"relations.guide_model": "{seed}/model"})
    runs = runs_of(study(arms={"guided": guided}, reference="guided", ceiling="guided"), tmp_path, read)
    assert sum(run.command == "pretrain" and run.arm is None for run in runs) == 2 * 2 * 2
    for cell in arms_of(runs):
        assert cell.recipe.relations.guide_model == f"{cell.needs[0]}/model"
        assert cell.needs[0].name == str(cell.seed)


def test_only_some_arms_need_only_their_own(tmp_path: Path) -> None:
    runs = runs_of(study(data={"few": {}}, seeds=[7]), tmp_path, read)
    assert runs_of_arms(runs, []) == runs
    assert [run.arm for run in runs_of_arms(runs, ["plain"])] == ["plain", "plain"]
    names = ["/".join(run.folder.relative_to(tmp_path).parts) for run in runs_of_arms(runs, ["mined"])]
    assert [name for name in names if "/0/" in name] == [
        "prepared/few/0/judge",
        "prepared/few/0/mined",
        "cells/few/0/mined/7",
    ]
    with pytest.raises(ConfigError, match=r"there is no arm 'plian' in the study.*'plain'"):
        runs_of_arms(runs, ["plian"])


def test_a_placeholder_that_names_nothing_is_one_line(tmp_path: Path) -> None:
    broken = study(arms={**study().arms, "mined": ArmConfig(fields={"relations.guide_model": "{jugde}/model"})})
    with pytest.raises(ConfigError, match=r"'\{jugde\}' names nothing that is prepared.*'judge'"):
        runs_of(broken, tmp_path, read)


def test_a_fingerprint_is_of_the_definition_not_of_the_place(tmp_path: Path) -> None:
    def prints(folder: str, **changes: Any) -> dict[Path, str]:
        """Fingerprints of the runs of a study in a folder, by their places in it."""
        runs = runs_of(study(data={"few": {}}, data_seeds=[0], seeds=[7], **changes), tmp_path / folder, read)
        return {run.folder.relative_to(tmp_path / folder): run.fingerprint for run in runs}

    def same(first: dict[Path, str], second: dict[Path, str]) -> set[str]:
        return {"/".join(path.parts) for path in first if first[path] == second[path]}

    first, second = prints("a"), prints("b")
    assert first == second and len(set(first.values())) == len(first)
    # Of the cells, "guided" and "plain" train for 3 epochs, and "mined" needs a judge that does.
    assert same(first, prints("a", fields={"loop.epochs": 4})) == {"prepared/few/0/seed/7"}
    prepared = {**study().prepare, "mined": PrepareConfig(command="mine", judge="{judge}", low=0.2, high=0.6)}
    of_the_ledger = {"prepared/few/0/mined", "cells/few/0/mined/7"}
    assert {"/".join(path.parts) for path in first} - same(first, prints("a", prepare=prepared)) == of_the_ledger


def test_fields_at_their_defaults_are_no_part_of_a_fingerprint(tmp_path: Path) -> None:
    def prints(**fields: Any) -> list[str]:
        return [run.fingerprint for run in runs_of(study(fields=fields), tmp_path, read)]

    default = LoopConfig().epochs
    assert prints() == prints(**{"loop.epochs": default, "momentum": None}) != prints(**{"loop.epochs": default + 1})
    assert prints(momentum={}) != prints()  # asked for, with all its defaults


def test_names_become_folders() -> None:
    assert slug("mined 20 %") == "mined-20-%" and slug("GRIT + ECM/../x") == "GRIT-+-ECM-..-x" and slug("..") == "-"


def test_two_arms_of_one_folder_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"two of plain, mined, plain\? would share a folder"):
        runs_of(study(arms={"plain": ArmConfig(), "mined": ArmConfig(), "plain?": ArmConfig()}), tmp_path, read)
