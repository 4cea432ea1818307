"""Which groups a run trains on, which it leaves to judges, and which nobody trains on."""

import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from truepair.data.groups import choose_groups
from truepair.data.open import open_pairs
from truepair.data.splits import DataConfig, build_tables
from truepair.errors import ConfigError

GROUPS = [f"concept {number}" for number in range(60) for _ in range(2 + number % 4)] + [None, None]


def test_judges_train_on_none_of_the_drawn_and_on_none_of_the_unseen() -> None:
    config = DataConfig(min_group_size=3, groups=20, unseen_share=0.2)
    drawn = choose_groups(GROUPS, config)
    others = choose_groups(GROUPS, replace(config, other_groups=True))
    assert len(drawn.chosen) == 20
    assert drawn.unseen == others.unseen != frozenset()
    assert not drawn.chosen & others.chosen and not (drawn.chosen | others.chosen) & drawn.unseen
    assert drawn.chosen | others.chosen | drawn.unseen == set(GROUPS) - {None}
    sizes = Counter(GROUPS)
    assert all(sizes[group] >= 3 for group in drawn.chosen | drawn.unseen)
    assert any(sizes[group] < 3 for group in others.chosen)


def test_seeds_draw_others_but_keep_the_same_unseen() -> None:
    config = DataConfig(groups=20, unseen_share=0.2)
    draws = [choose_groups(GROUPS, replace(config, group_seed=seed)) for seed in range(3)]
    assert len({draw.chosen for draw in draws}) == 3
    assert len({draw.unseen for draw in draws}) == 1
    assert choose_groups(GROUPS, config) == draws[0]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_smaller_share_is_part_of_a_larger_one(seed: int) -> None:
    names = [f"concept {number}" for number in range(2000)]
    shares = [
        choose_groups(names, DataConfig(group_share=share, group_seed=seed)).chosen for share in (0.05, 0.2, 0.5, 1.0)
    ]
    assert shares[0] < shares[1] < shares[2] < shares[3] == set(names)
    assert [len(share) / 2000 for share in shares] == pytest.approx([0.05, 0.2, 0.5, 1.0], abs=0.03)


def test_small_shares_of_different_seeds_do_not_meet() -> None:
    names = [f"concept {number}" for number in range(2000)]
    first, second, third = (
        choose_groups(names, DataConfig(group_share=0.1, group_seed=seed)).chosen for seed in range(3)
    )
    assert not first & second and not second & third and not first & third


def test_too_many_groups_are_one_line() -> None:
    with pytest.raises(ConfigError, match=r"data\.groups asks for 61 groups, and there are 60; ask for fewer"):
        choose_groups(GROUPS, DataConfig(groups=61))


@pytest.mark.parametrize(
    ("name", "value", "line"),
    [("groups", -1, "0 or more"), ("drawings", -2, "0 or more"), ("unseen_share", 1.0, "from 0 to below 1")],
)
def test_impossible_values_are_one_line(name: str, value: float, line: str) -> None:
    with pytest.raises(ConfigError, match=rf"data\.{name} is .*; give .*{line}"):
        DataConfig(**{name: value})


def test_tables_hold_the_drawn_groups_and_few_drawings_of_each(squares: Path) -> None:
    source = str(squares / "pairs.jsonl")
    whole = open_pairs(source)
    config = DataConfig(sources=[source], groups=3, drawings=2, unseen_share=0.4, group_seed=1)
    tables = build_tables(config)
    found = Counter(tables.train.rows["group"])
    assert len(found) == 3 and set(found.values()) == {2}
    assert tables.unseen is not None
    unseen = set(tables.unseen.rows["group"])
    assert not unseen & set(found)
    assert len(tables.unseen) == sum(group in unseen for group in whole.rows["group"])  # of all splits
    others = build_tables(replace(config, other_groups=True))
    assert not set(others.train.rows["group"]) & (set(found) | unseen)
    assert len(build_tables(replace(config, drawings=0)).train) > len(tables.train)


def test_which_drawings_are_kept_is_nested(squares: Path) -> None:
    source = str(squares / "pairs.jsonl")
    kept = [set(build_tables(DataConfig(sources=[source], drawings=most)).train.image_ids) for most in (1, 2, 3)]
    assert kept[0] < kept[1] < kept[2]


def test_data_without_groups_is_one_line(squares: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(squares, tmp_path / "squares")
    rows = [json.loads(line) for line in (folder / "pairs.jsonl").read_text().splitlines()]
    without = [{name: value for name, value in row.items() if name != "group"} for row in rows]
    (folder / "pairs.jsonl").write_text("\n".join(map(json.dumps, without)))
    source = str(folder / "pairs.jsonl")
    for name, value in (("groups", 2), ("drawings", 2), ("other_groups", True), ("unseen_share", 0.1)):
        line = rf"data\.{name} {value} needs a group column, which pairs has not; to do without, give --data\.{name} "
        with pytest.raises(ConfigError, match=line):
            build_tables(DataConfig(sources=[source], min_group_size=7, **{name: value}))
    tables = build_tables(DataConfig(sources=[source], min_group_size=7, max_group_size=9))
    assert len(tables.train) == len(open_pairs(source, split="train"))
    line = "pairs has no group column, so nothing is left out by data.min_group_size 7 and data.max_group_size 9"
    assert line in tables.notes


def test_how_many_pairs_are_left_is_said(squares: Path, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(next(squares.glob("*.png")).read_bytes())
    (tmp_path / "own.csv").write_text("image,caption\na.png,a square\n")
    groups = open_pairs(squares / "pairs.jsonl").values("group")
    sources = [str(squares / "pairs.jsonl"), str(tmp_path / "own.csv")]

    tables = build_tables(DataConfig(sources=sources, groups=2, drawings=1))

    left = sum(group in set(tables.train.values("group")) for group in groups)
    said = f"{left} of {len(groups) + 1} pairs are left by data.groups 2 and data.drawings 1"
    assert f"{said}; 1 of those left out state no group" in tables.notes
