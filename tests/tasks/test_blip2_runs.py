"""BLIP-2 through the commands: it trains from nothing and from a folder, is evaluated, and what cannot be is said."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, Blip2ForImageTextRetrieval

from tests.judges.tiny_judges import save_blip2, save_clip
from truepair.cli.main import main
from truepair.data.open import open_pairs
from truepair.engine.logs.log import read_log
from truepair.models import Blip2FusionModel
from truepair.models.open import open_model
from truepair.relations.ledger import Ledger

NEW = [
    *("--model.checkpoint", "null", "--model.freeze_image", "false", "--data.transform.size", "16"),
    *("--data.transform.normalisation", "none", "--text.tokenizer", "train", "--text.max_length", "12"),
    *("--text.add_sep", "true", "--text.normalise", "false", "--model.options"),
    json.dumps(
        {
            "num_query_tokens": 3,
            "vision_config": {"image_size": 16, "hidden_size": 32, "num_hidden_layers": 1},
            "qformer_config": {"hidden_size": 32, "num_hidden_layers": 1, "intermediate_size": 32},
        }
    ),
]


def command(squares: Path, folder: Path, *words: str, recipe: str = "blip2", epochs: int = 1) -> list[str]:
    made = ["train", recipe, str(squares / "pairs.jsonl"), "--run-folder", str(folder), "--data.captions", "first"]
    made += ["--loop.epochs", str(epochs), "--loop.batch_size", "12", "--loop.workers", "0", "--loop.cpu", "true"]
    return [*made, "--data.validation_share", "0", "--evaluation.rerank", "4", "--loop.log_every", "1", *words]


def test_from_nothing_to_figures_by_similarity_and_itm(
    squares: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    main([*command(squares, run), *NEW])
    said = capsys.readouterr().err
    assert "a BLIP-2 of 3 queries: the image tower starts from random weights, the Q-Former from random" in said
    assert "the head of ITG starts from random weights" in said
    logged = [record for record in read_log(run / "log.jsonl") if record["kind"] == "step"]
    assert {"itc", "itm", "itg"} <= logged[0].keys() and "mlm" not in logged[0]
    figures = json.loads((run / "retrieval.json").read_text())
    assert figures["ways"].keys() >= {"similarity", "ITM"} and figures["images"] == 12
    _, loading = Blip2ForImageTextRetrieval.from_pretrained(run / "model", output_loading_info=True)
    assert not loading["missing_keys"] and not loading["unexpected_keys"]
    assert "[DEC]" in AutoTokenizer.from_pretrained(run / "model").get_vocab()
    opened = open_model(run).model
    assert isinstance(opened, Blip2FusionModel) and opened.start is not None and opened.itm_trained
    main(["evaluate", str(run), "--output", str(tmp_path / "again.json")])
    again = json.loads((tmp_path / "again.json").read_text())
    assert again["ways"]["similarity"] == figures["ways"]["similarity"]


def test_cosmo_from_a_folder_asks_a_blip2_and_groups_batches(
    squares: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = save_blip2(tmp_path / "start", open_pairs(squares / "pairs.jsonl"))
    words = ["--model.checkpoint", str(start), "--text.max_length", "0", "--ecm.judge.kind", "blip2"]
    words += ["--ecm.judge.checkpoint", str(start), "--ecm.zones.low", "0.4", "--ecm.zones.high", "0.45"]
    words += ["--sampler.queue_size", "24", "--sampler.search_space", "12"]
    run = tmp_path / "run"
    main(
        command(
            squares,
            run,
            *words,
            "--model.cache_images",
            "true",
            "--model.cache_folder",
            str(tmp_path / "c"),
            recipe="blip2_cosmo",
            epochs=2,
        )
    )
    log = read_log(run / "log.jsonl")
    asked = [record for record in log if any(name.startswith("ecm/") for name in record)]
    assert asked
    before, after = open_model(start).model.state_dict(), open_model(run).model.state_dict()
    moved = {name for name in after if not torch.equal(before[name], after[name])}
    assert not any(name.startswith("model.vision_model.") for name in moved)  # it is frozen
    assert {"model.query_tokens", "temp", "itg_head.bias", "model.itm_head.weight"} <= moved
    assert "the head of ITG starts from random weights" in capsys.readouterr().err


def test_cosmo_converts_what_a_ledger_holds(squares: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All pairs are in it, so the hardest of each anchor becomes a match; its coverage of own pairs is not asked."""
    table, ledger = open_pairs(squares / "pairs.jsonl"), tmp_path / "ledger"
    captions = torch.tensor([ids[0] for ids in table.rows["caption_ids"]])
    cells = torch.cartesian_prod(torch.tensor(table.image_ids), captions)  # [C, 2]
    with Ledger(ledger) as written:
        written.record(cells[:, 0], cells[:, 1], torch.full((len(cells),), 0.9), judge="mined:0")
    words = ["--ecm.judge.kind", "recorded", "--ecm.judge.checkpoint", str(ledger), "--data.min_group_size", "0"]
    run = tmp_path / "run"
    main([*command(squares, run, recipe="blip2_cosmo"), *NEW, *words])
    (epoch,) = [record for record in read_log(run / "log.jsonl") if record["kind"] == "epoch"]
    assert epoch["ecm/t2i/above"] > 0
    assert "recorded" not in capsys.readouterr().err


def test_itm_that_hears_products_is_saved_and_evaluated_with_them(
    squares: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    words = [word.replace('"num_query_tokens"', '"itm_product": true, "num_query_tokens"') for word in NEW]
    main([*command(squares, run), *words])
    assert "model.options.itm_product: ITM also reads products of features" in capsys.readouterr().err
    model = open_model(run).model
    assert isinstance(model, Blip2FusionModel) and model.itm_product is not None
    assert model.itm_product.linear.weight.abs().max() > 0
    said = json.loads((run / "retrieval.json").read_text())["ways"]["ITM"]
    main(["evaluate", str(run), "--output", str(tmp_path / "again.json")])
    assert json.loads((tmp_path / "again.json").read_text())["ways"]["ITM"] == said
    asks = ["--ecm.judge.kind", "blip2", "--ecm.judge.checkpoint", str(run / "model")]
    with pytest.raises(SystemExit):
        main([*command(squares, tmp_path / "asks", recipe="blip2_cosmo"), *NEW, *asks])
    assert "cannot judge: its ITM also reads products of features" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--objectives.mlm.weight", "1"], "has no vocabulary head for MLM; set objectives.mlm.weight to 0"),
        (["--momentum.decay", "0.9"], "compares a text with the best of 3 queries of an image, and a momentum model"),
        (["--text.normalise", "true"], "set text.add_sep to true and text.normalise to false"),
        (["--data.transform.size", "24"], "data.transform.size is 24, and the image tower reads 16 px"),
        (["--model.family", "blip3"], "model.family"),
    ],
)
def test_what_cannot_be_is_said_in_a_line(
    squares: Path, tmp_path: Path, words: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([*command(squares, tmp_path / "run"), *NEW, *words])
    assert reason in capsys.readouterr().err


@pytest.mark.parametrize("name", ["embed", "search", "mine", "export"])
def test_commands_that_keep_one_vector_an_image_say_so(
    squares: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs = str(squares / "pairs.jsonl")
    folder = str(save_blip2(tmp_path / "start", open_pairs(pairs)))
    if name == "search":
        clip = str(save_clip(tmp_path / "clip", open_pairs(pairs)))
        main(["embed", clip, pairs, "--output", str(tmp_path / "v.parquet")])
    words = {
        "embed": ["embed", folder, pairs, "--output", str(tmp_path / "v.parquet")],
        "search": ["search", folder, str(tmp_path / "v.parquet"), "a square"],
        "mine": ["mine", pairs, "--model", folder, "--run-folder", str(tmp_path / "mined")],
        "export": ["export", folder, str(tmp_path / "onnx"), "--format", "onnx"],
    }[name]
    with pytest.raises(SystemExit):
        main(words)
    said = capsys.readouterr().err
    assert "compares a text with the best of 3 queries of an image" in said, said


def test_an_albef_is_asked_for_no_captions(squares: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", "scratch", str(squares / "pairs.jsonl"), "--run-folder", str(tmp_path), "--loop.batch_size", "12"]
    with pytest.raises(SystemExit):
        main([*words, "--objectives.itg.weight", "1", "--loop.workers", "0"])
    assert "AlbefModel writes no captions, as ITG does; set objectives.itg.weight to 0" in capsys.readouterr().err
