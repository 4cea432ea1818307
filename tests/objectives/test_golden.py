"""A recorded step of the official program, as far as it needs no model: from features and con-D scores to losses."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.official_ecm import OFFICIAL, official_order, official_zones, positives
from truepair.objectives.contrastive import Direction, contrastive_loss
from truepair.objectives.ecm import Connections, connect
from truepair.objectives.itm import hardest_negatives, itm_loss

FOLDER = Path(__file__).parents[1] / "data" / "golden" / "albef_step_1"
BATCH = load_file(FOLDER / "batch.safetensors")
RECORD = json.loads((FOLDER / "expected.json").read_text(encoding="utf-8"))
CONFIG, EXPECTED = RECORD["config"], RECORD["expected"]
ZONES = official_zones(CONFIG["low_threshold"], CONFIG["high_threshold"])
IMAGES, TEXTS = BATCH["image_feat"], BATCH["text_feat"]


@pytest.fixture(scope="module")
def connections() -> Connections:
    candidates = hardest_negatives(IMAGES @ TEXTS.T / CONFIG["temperature"])
    assert torch.equal(candidates.i2t, BATCH["hard_i2t_top2"])
    assert torch.equal(candidates.t2i, BATCH["hard_t2i_top2"])
    return connect(candidates, BATCH["cond_score_i2t"], BATCH["cond_score_t2i"], ZONES, **OFFICIAL)


def test_zones(connections: Connections) -> None:
    for zone in ("below", "between", "above"):
        assert sum(int(connections.counts[f"{side}/{zone}"]) for side in ("i2t", "t2i")) == EXPECTED["zones"][zone]


@pytest.mark.parametrize("implementation", ["dense", "tiled"])
@pytest.mark.parametrize(("epoch", "smoothing"), [("epoch0", 0.0), ("epoch1", CONFIG["smoothing"])])
def test_itc(connections: Connections, implementation: str, epoch: str, smoothing: float) -> None:
    temperature = torch.tensor(CONFIG["temperature"], requires_grad=True)
    loss = contrastive_loss(
        IMAGES,
        TEXTS,
        temperature,
        rows=Direction(positives(connections, "i2t", symmetric=False), smoothing),
        columns=Direction(positives(connections, "t2i", symmetric=False), smoothing),
        key_gradient=False,
        implementation=implementation,
    ).loss
    (gradient,) = torch.autograd.grad(loss, temperature)
    assert float(loss.detach()) == pytest.approx(EXPECTED[epoch]["loss_itc"], rel=1e-6)
    assert abs(float(gradient)) == pytest.approx(EXPECTED[epoch]["grad_norms"]["temp"], rel=1e-4)


def test_order_and_labels_of_itm(connections: Connections) -> None:
    """The recorded logits stand in the official row order; only with it does their loss come out."""
    labels = connections.pairs.labels[
        official_order(connections, BATCH["cond_score_i2t"], BATCH["cond_score_t2i"], ZONES)
    ]
    assert len(labels) == len(BATCH["itm_logits"])
    assert float(itm_loss(BATCH["itm_logits"], labels)) == pytest.approx(EXPECTED["epoch0"]["loss_itm"], rel=1e-6)


def test_converted_rows_of_mlm(connections: Connections) -> None:
    texts = torch.cat([torch.arange(len(IMAGES)), connections.converted.columns])
    assert torch.equal(BATCH["input_ids"][texts], BATCH["mlm_ids_in"])
