"""Whether ITC has left chance: what chance is, and when a line is said."""

import json
import math
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.methods.steps import Composition, info, pairs
from truepair.cli.main import main
from truepair.methods.chance import RECENT, ChanceWatch, loss_of_constant
from truepair.methods.momentum import MomentumConfig
from truepair.methods.step import ItcConfig, ItmConfig, MlmConfig, ObjectivesConfig

MODEL = {
    "image_encoder": {"model_type": "conv_stem", "image_size": 16, "hidden_size": 32, "num_hidden_layers": 1},
    "hidden_size": 32,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "text_layers": 1,
    "fusion_layers": 1,
    "embed_dim": 16,
    "image_pooling": "mean",
    "text_pooling": "mean",
}
WORDS = [
    "--text.vocab_size", "100", "--text.max_length", "10", "--model.options", json.dumps(MODEL),
    "--data.transform.size", "16", "--data.transform.rand_augment_ops", "0", "--data.captions", "first",
    "--optimizer.warmup_steps", "0", "--loop.batch_size", "8", "--loop.workers", "0", "--loop.cpu", "true",
    "--loop.log_every", "2",
]  # fmt: skip


def itc_alone(**fields: object) -> ObjectivesConfig:
    return ObjectivesConfig(itc=ItcConfig(**fields), itm=ItmConfig(weight=0.0), mlm=MlmConfig(weight=0.0))  # type: ignore[arg-type]


@pytest.mark.parametrize(("smoothing", "queue", "candidates"), [(0.0, 0, 8), (0.5, 0, 8), (0.0, 6, 14)])
def test_chance_is_the_logarithm_of_the_candidates(smoothing: float, queue: int, candidates: int) -> None:
    momentum = MomentumConfig(queue_size=queue) if queue else None
    step = Composition(itc_alone(smoothing=smoothing, consistency=0.2), momentum=momentum).build()
    step.chance = ChanceWatch(1, lambda _: 0)
    first = step(pairs(list(range(8))), info(2, logged=True)).losses
    assert float(first["itc_chance"]) == pytest.approx(math.log(candidates))


def test_chance_of_the_sigmoid_loss_is_that_of_the_best_bias() -> None:
    matches, others = 3.0, 21.0

    def loss_at(logit: float) -> torch.Tensor:
        at = torch.tensor(logit, dtype=torch.float64)
        softplus = torch.nn.functional.softplus
        return matches * softplus(-at) + others * softplus(at)

    best = min(float(loss_at(logit / 1000)) for logit in range(-10_000, 10_000))
    assert float(loss_of_constant(loss_at)) == pytest.approx(best, rel=1e-5)
    step = Composition(itc_alone(loss="sigmoid")).build()
    step.chance = ChanceWatch(1, lambda _: 0, softmax=False)
    losses = step(pairs(list(range(8))), info(2, logged=True)).losses
    share = 1 / 8
    entropy = -(share * math.log(share) + (1 - share) * math.log(1 - share))
    assert float(losses["itc_chance"]) == pytest.approx(8 * entropy)


def values(itc: float | None) -> dict[str, float | None]:
    return {"itc": itc, "itc_chance": 2.0, "temperature": 0.07}


def test_a_line_once_and_not_before_it_is_due() -> None:
    watch = ChanceWatch(10, lambda total: total // 10)  # due at step 20 of 100
    said = {step: watch.look(step, 100, values(2.0)) for step in range(2, 60, 2)}
    assert [step for step, line in said.items() if line] == [20]
    assert (
        "after 20 steps: it is 2.000, and 2.000 where no pair differs from another, ln of about 7 candidates."
        in str(said[20])
    )


@pytest.mark.parametrize("losses", [[3.0, 2.5, 1.9, 1.8, 1.7, 1.6, 1.5], [1.5] * RECENT + [None]])
def test_nothing_is_said_of_a_loss_that_falls(losses: list[float | None]) -> None:
    watch = ChanceWatch(6, lambda _: 0)
    assert not any(watch.look(step, 1000, values(loss)) for step, loss in enumerate(losses))


def test_a_short_run_is_judged_at_its_end() -> None:
    watch = ChanceWatch(200, lambda _: 2000)
    assert watch.look(5, 6, values(2.0)) is None
    assert str(watch.look(6, 6, values(2.0))).endswith("or the run is too short")


@pytest.mark.parametrize("pictures", ["alike", "apart"])
def test_a_run_says_that_itc_has_not_left_chance(
    pictures: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = []
    for number in range(24):
        colour = "white" if pictures == "alike" else (number % 3 * 120, number // 3 % 3 * 120, number // 9 * 120)
        picture = Image.new("RGB", (16, 16), colour)
        picture.putpixel((number % 16, number // 16), (250, 250, number))  # no copy of another file
        picture.save(tmp_path / f"{number}.png")
        rows.append(json.dumps({"image": f"{number}.png", "caption": f"thing {number % 3} {number // 3}"}))
    (tmp_path / "pairs.jsonl").write_text("\n".join(rows))
    run = tmp_path / "run"
    rate = "1.0" if pictures == "alike" else "0.003"
    words = ["--optimizer.learning_rate", rate, "--objectives.itm.weight", "0", "--objectives.mlm.weight", "0"]
    epochs = ["--loop.epochs", "20", "--objectives.itc.chance_steps", "40"]
    main(
        [
            "train",
            "scratch",
            str(tmp_path / "pairs.jsonl"),
            *WORDS,
            *words,
            *epochs,
            "--run-folder",
            str(run),
            "--report",
        ]
    )
    told = " ".join(capsys.readouterr().err.split())
    remarks = [line for line in (run / "log.jsonl").read_text().splitlines() if json.loads(line)["kind"] == "remark"]
    line = "ITC has not left chance after 40 steps: it is "
    assert (line in told) == (pictures == "alike") == (len(remarks) == 1)
    assert (line in (run / "report.html").read_text()) == (pictures == "alike")
    if pictures == "alike":
        assert "ln of 8 candidates" in told and "optimizer.learning_rate" in told and "all alike" in told


@pytest.mark.parametrize("more", [[], ["--loop.accumulate", "8"]])
def test_a_batch_of_one_is_refused_before_anything_is_computed(
    more: list[str], squares: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", "scratch", str(squares / "pairs.jsonl"), *WORDS, "--loop.batch_size", "1", *more]
    with pytest.raises(SystemExit) as stopped:
        main([*words, "--run-folder", str(tmp_path / "run")])
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "a batch has one pair, over all processes: ITC tells a pair from the others of its batch" in line
