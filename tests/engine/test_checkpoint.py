import json
from pathlib import Path

import pytest
import torch

from truepair.engine.state.checkpoint import CheckpointStore, find_fault, require_same_plan
from truepair.engine.state.snapshot import load_optimizer, save_optimizer
from truepair.errors import CheckpointError, ConfigError


def write_two(folder: Path) -> None:
    (folder / "a.bin").write_bytes(b"abc")
    (folder / "b.bin").write_bytes(b"def")


def refuse(line: str) -> None:
    raise AssertionError(line)


def test_newest_is_found_and_old_ones_go(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    for step in (1, 2, 3):
        store.save(step, write_two, {"epoch": step})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000002", "step-00000003"]
    found = store.newest(refuse)
    assert found is not None
    assert found[0].name == "step-00000003"
    assert found[1] == {"step": 3, "epoch": 3}


def test_nothing_there(tmp_path: Path) -> None:
    assert CheckpointStore(tmp_path / "none").newest(refuse) is None


@pytest.mark.parametrize("damage", ["truncate", "remove", "manifest"])
def test_damaged_one_is_named_and_passed_over(tmp_path: Path, damage: str) -> None:
    store = CheckpointStore(tmp_path)
    store.save(1, write_two, {})
    last = store.save(2, write_two, {})
    target = last / ("manifest.json" if damage == "manifest" else "b.bin")
    if damage == "remove":
        target.unlink()
    else:
        target.write_bytes(target.read_bytes()[:-1])
    said: list[str] = []
    found = store.newest(said.append)
    assert found is not None
    assert found[1]["step"] == 1
    assert len(said) == 1
    assert str(last) in said[0]


def test_damage_everywhere_does_not_start_anew_in_silence(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    for step in (1, 2):
        (store.save(step, write_two, {}) / "b.bin").write_bytes(b"")
    said: list[str] = []
    with pytest.raises(CheckpointError, match=r"no checkpoint in .* is whole; remove that folder"):
        store.newest(said.append)
    assert [line.endswith("going back to the one before it") for line in said] == [True, False]


def test_only_what_changed_is_named(tmp_path: Path) -> None:
    plan = {"pairs": 553, "epochs": 60, "sampler": "random"}
    require_same_plan(tmp_path, dict(plan), plan)
    with pytest.raises(ConfigError, match=r"another plan \(epochs was 60, is 61\); give another"):
        require_same_plan(tmp_path, plan, plan | {"epochs": 61})


def test_crash_while_writing_leaves_the_former(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    store.save(1, write_two, {})

    def crash(folder: Path) -> None:
        write_two(folder)
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        store.save(2, crash, {})
    found = store.newest(refuse)
    assert found is not None
    assert found[1]["step"] == 1
    store.save(2, write_two, {})
    assert find_fault(tmp_path / "step-00000002") is None


def test_full_disk_is_one_line_and_leaves_the_former(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    store.save(1, write_two, {})

    def full(folder: Path) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(CheckpointError, match="No space left on device; free some space"):
        store.save(2, full, {})
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000001"]


def test_manifest_lists_every_file(tmp_path: Path) -> None:
    folder = CheckpointStore(tmp_path).save(1, write_two, {})
    assert set(json.loads((folder / "manifest.json").read_text())) == {"a.bin", "b.bin", "state.json"}


def test_optimizer_round_trip_and_mismatch(tmp_path: Path) -> None:
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([weight], lr=0.1)
    weight.grad = torch.arange(3.0)
    optimizer.step()
    save_optimizer(optimizer.state_dict(), tmp_path)
    fresh = torch.optim.AdamW([torch.nn.Parameter(torch.ones(3))], lr=0.3)
    load_optimizer(fresh, tmp_path)
    assert torch.equal(fresh.state_dict()["state"][0]["exp_avg"], optimizer.state_dict()["state"][0]["exp_avg"])
    with pytest.raises(CheckpointError, match="other trainable parameters"):
        load_optimizer(
            torch.optim.AdamW([torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.ones(3))]), tmp_path
        )


def test_settings_of_the_optimizer_are_those_of_the_recipe(tmp_path: Path) -> None:
    def built(peak: float, decay: float) -> torch.optim.AdamW:
        weight = torch.nn.Parameter(torch.ones(3))
        return torch.optim.AdamW([{"params": [weight], "peak": peak, "weight_decay": decay}], lr=peak)

    save_optimizer(built(0.1, 0.02).state_dict(), tmp_path)
    fresh = built(0.01, 0.5)
    load_optimizer(fresh, tmp_path)
    assert [fresh.param_groups[0][name] for name in ("peak", "weight_decay", "lr")] == [0.01, 0.5, 0.01]


def test_a_run_that_went_back_behind_a_damaged_checkpoint_keeps_its_own(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=1)
    store.save(1, write_two, {})
    store.best = 1
    damaged = store.save(9, write_two, {})
    (damaged / "a.bin").unlink()
    assert store.newest(lambda line: None) is not None
    for step in (2, 3):
        assert store.save(step, write_two, {}).exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000001", "step-00000003"]
