"""Captioning by the language model of a BLIP-2, from the command to the files it leaves."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoProcessor, AutoTokenizer, BertConfig, BertForMaskedLM, Blip2ForConditionalGeneration

from tests.judges.tiny_judges import save_blip2
from tests.models.tiny_language import KINDS, save_blip2_language, save_language_model
from tests.tasks.task_sets import COLOURS, picture, write_checkpoint
from tests.tasks.test_captioning import write_recipe
from truepair.cli.main import main
from truepair.data.open import open_pairs

SMALL = {"model_type": "gpt2", **KINDS["gpt2"], "initializer_range": 0.02, "embd_pdrop": 0, "resid_pdrop": 0}
FRESH = ["--model.language.options", json.dumps(SMALL)]
FRESH += ["--model.language.freeze", "false", "--model.language.vocab_size", "60"]


@pytest.fixture(autouse=True)
def scorers() -> None:
    pytest.importorskip("pycocoevalcap")


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    return write_recipe(tmp_path)


@pytest.fixture
def first(recipe: Path, tmp_path: Path) -> Path:
    return save_blip2(tmp_path / "first", open_pairs(tmp_path / "pairs.jsonl"))


def train(recipe: Path, run: Path, checkpoint: Path, *options: str) -> None:
    words = ["--run-folder", str(run), "--model.checkpoint", str(checkpoint), *options]
    main(["train", "captioning", str(recipe), *words])


def test_captions_from_a_first_stage_and_a_new_language_model(
    recipe: Path, first: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("truepair.evaluation.captioning.shutil.which", lambda name: None)
    run = tmp_path / "run"
    frozen = ["--model.freeze_image", "true", "--model.cache_images", "true"]
    frozen += ["--model.cache_folder", str(tmp_path / "cache"), "--model.language.prompt", "this says"]
    train(recipe, run, first, *FRESH, *frozen, "--loop.epochs", "24", "--loop.best_figure", "cider_d", "--report")
    told = capsys.readouterr()
    said = " ".join(told.err.split())
    assert (
        f"{first}, a BLIP-2 of 3 queries, and a gpt2 of random weights, which is trained, too; a layer between" in said
    )
    assert "SPICE is left out: it is a program of Java" in said and "CIDEr-D" in told.out
    result = json.loads((run / "captioning.json").read_text())
    scores = {who: one["figures"] for who, one in result["scores"].items()}
    assert scores["model"]["cider_d"] > scores["most frequent"]["cider_d"] and "spice" not in scores["model"]
    written = json.loads((run / "captions.json").read_text())
    assert len(written) == 3 and all(set(entry) == {"image_id", "caption"} for entry in written)
    assert len({colour for entry in written for colour in COLOURS if colour in entry["caption"]}) > 1
    before, after = load_file(first / "model.safetensors"), load_file(run / "model" / "model.safetensors")
    assert all(torch.equal(before[name], after[name]) for name in after if name.startswith("vision_model."))
    assert not torch.equal(before["query_tokens"], after["query_tokens"])

    (run / "captions.json").unlink()
    main(["evaluate", "captioning", str(run / "model")])
    assert json.loads((run / "captions.json").read_text()) == written, "the folder holds what was measured"
    # The class of transformers, alone with the folder, writes the same captions.
    model = Blip2ForConditionalGeneration.from_pretrained(run / "model").eval()
    processor = AutoProcessor.from_pretrained(run / "model")
    captions = []
    for colour in COLOURS:
        read = processor(images=picture(colour, 5), text="this says", return_tensors="pt")
        made = model.generate(**read, num_beams=3, max_new_tokens=8)[:, read["input_ids"].shape[1] :]
        captions.append(processor.decode(made[0], skip_special_tokens=True).strip())
    assert sorted(captions) == sorted(entry["caption"] for entry in written)


def test_a_whole_one_is_measured_as_it_is_and_trained_with_lora(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("peft")
    whole = save_blip2_language(tmp_path / "whole" / "model", open_pairs(tmp_path / "pairs.jsonl"))
    limits = ["--max_caption_length", "6", "--beams", "1", "--min_caption_length", "4"]
    main(["evaluate", "captioning", str(whole), str(recipe), *limits])
    written = json.loads((tmp_path / "whole" / "captions.json").read_text())
    assert len(written) == 3
    (tmp_path / "photos").mkdir()
    shutil.copy(tmp_path / "red-5.png", tmp_path / "photos")
    photos = ["--data.test", str(tmp_path / "photos"), "--output", str(tmp_path / "out")]
    main(["evaluate", "captioning", str(whole), str(recipe), *limits, *photos])
    [shown] = map(json.loads, (tmp_path / "out" / "captions.jsonl").read_text().splitlines())
    assert shown["references"] == [] and shown["caption"] in [entry["caption"] for entry in written]
    run, options = tmp_path / "run", ["--model.language.lora.rank", "2", "--loop.epochs", "2"]
    options += ["--data.validation_split", "", "--data.test_split", ""]
    train(recipe, run, whole, *options)
    said = " ".join(capsys.readouterr().err.split())
    assert "a BLIP-2 of 3 queries, whose language model rests but for LoRA of rank 2" in said
    start, final = (load_file(folder / "model.safetensors") for folder in (whole, run / "model"))
    moved = {name.rpartition(".")[0].rpartition(".")[2] for name in final if not torch.equal(start[name], final[name])}
    assert {"c_attn", "c_fc"} <= moved and "wte" not in moved and final.keys() == start.keys()
    shutil.rmtree(run / "model")
    shutil.rmtree(sorted((run / "checkpoints").glob("step-*"))[-1])
    train(recipe, run, whole, *options)
    again = load_file(run / "model" / "model.safetensors")
    assert all(torch.equal(again[name], final[name]) for name in final), "a resumed run is the uninterrupted one"


def test_a_named_language_model_rests(recipe: Path, first: Path, tmp_path: Path) -> None:
    language = save_language_model(tmp_path / "opt", open_pairs(tmp_path / "pairs.jsonl"), "opt")
    run, options = tmp_path / "run", ["--model.language.checkpoint", str(language), "--loop.epochs", "1"]
    options += ["--data.validation_split", "", "--data.test_split", "", "--optimizer.text_learning_rate", "1"]
    train(recipe, run, first, *options)
    before, after = load_file(language / "model.safetensors"), load_file(run / "model" / "model.safetensors")
    named = {f"language_model.{name}": weight for name, weight in before.items()}
    kept = [torch.equal(weight, after[name][: len(weight)]) for name, weight in named.items()]
    assert len(kept) > 20 and all(kept)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ([], "is a BLIP-2 of the first stage, which has no language model; name one with model.language.checkpoint"),
        (["--model.language.options", "{model_type: gpt2}"], "writes nothing while it rests; set model.language"),
        ([*FRESH, "--list_vocabulary", "true"], "list_vocabulary is for a head of truepair's own"),
        ([*FRESH, "--model.freeze_text", "true"], "model.freeze_text and model.cache_texts are of a text encoder"),
        ([*FRESH, "--model.options", "{image_feature: true}"], "model.options are for models of truepair"),
        ([*FRESH, "--model.fresh", "true"], "model.fresh and model.options are for models of truepair"),
        ([*FRESH, "--model.language.checkpoint", "x"], "both give a language model"),
        ([*FRESH, "--model.language.lora.rank", "2"], "adapts a language model that rests, and model.language.freeze"),
        ([*FRESH, "--model.max_length", "62"], "max_length is 62, but the language model of"),
        ([*FRESH, "--model.language.prompt", "Question: {} Answer:"], "prompt has {}, and the prompt of captions is"),
        ([*FRESH, "--model.language.prompt", "<image> shows"], "model.language.prompt has <image>, and the prompt of"),
        ([*FRESH, "--max_caption_length", "61"], "behind the queries and 1 tokens of prompt the language model"),
        ([*FRESH, "--min_caption_length", "8"], "min_caption_length is 8 and max_caption_length 8, which counts"),
        ([*FRESH, "--model.transform", "{size: 24}"], "model.transform.size is 24, but the model reads 16 px"),
        ([*FRESH, "--model.transform", "{size: 0}"], "normalisation is 'clip', but the model has its own"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(
    recipe: Path, first: Path, tmp_path: Path, words: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        train(recipe, tmp_path / "run", first, *words)
    assert reason in " ".join(capsys.readouterr().err.split())


def test_language_models_that_cannot_go_on_are_refused(
    recipe: Path, first: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    language = save_language_model(tmp_path / "gpt2", open_pairs(tmp_path / "pairs.jsonl"))
    bert, bare, other = tmp_path / "bert", tmp_path / "bare", tmp_path / "other"
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    BertForMaskedLM(BertConfig(vocab_size=90, **sizes)).save_pretrained(bert)
    for folder in (bare, other):
        shutil.copytree(language, folder)
    for file in bare.glob("tokenizer*"):
        file.unlink()
    tokenizer = AutoTokenizer.from_pretrained(language)
    tokenizer.add_tokens([f"word{number}" for number in range(200)])
    tokenizer.save_pretrained(other)

    def refused(checkpoint: Path, *options: str) -> str:
        with pytest.raises(SystemExit):
            train(recipe, tmp_path / "run", first, "--model.language.checkpoint", str(checkpoint), *options)
        return " ".join(capsys.readouterr().err.split())

    assert "the language model is a bert, which fills in words and does not go on; give one that only" in refused(bert)
    assert f"no tokenizer could be loaded from {bare}: no vocabulary of a tokenizer is there" in refused(bare)
    assert "has a tokenizer of 251 entries and a language model of 51; save the tokenizer" in refused(other)
    lora = ["--model.language.lora.targets", "[q_proj, c_attn]"]
    assert "no linear layer of the language model is called 'q_proj' (did you mean 'c_proj'?); it has" in refused(
        language, *lora
    )
    with pytest.raises(SystemExit):
        main(["evaluate", "captioning", str(first), str(recipe)])
    assert "of the first stage, which has no language model; train it with one first" in " ".join(
        capsys.readouterr().err.split()
    )


def test_queries_that_are_all_alike_are_drawn(
    recipe: Path, first: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = load_file(first / "model.safetensors")
    weights["query_tokens"].zero_()  # as transformers starts them
    save_file(weights, first / "model.safetensors", {"format": "pt"})
    run = tmp_path / "run"
    train(recipe, run, first, *FRESH, "--loop.epochs", "1", "--data.test_split", "", "--data.validation_split", "")
    said = f"the queries of {first} are all alike, as in a model that was never trained: they are drawn at random"
    assert said in " ".join(capsys.readouterr().err.split())
    queries = load_file(run / "model" / "model.safetensors")["query_tokens"]
    assert queries.std(dim=1).min() > 0


def test_what_is_for_a_blip2_is_refused_of_an_albef_and_of_other_tasks(
    recipe: Path, first: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    albef = write_checkpoint(tmp_path / "albef")
    with pytest.raises(SystemExit):
        train(recipe, tmp_path / "run", albef, *FRESH)
    assert f"model.language is for a BLIP-2, and {albef} is none; leave it out" in " ".join(
        capsys.readouterr().err.split()
    )
    with pytest.raises(SystemExit):
        main(["train", "nlvr2", "sample", "--run-folder", str(tmp_path / "n"), "--model.checkpoint", str(first)])
    assert "is a BLIP-2, and this task is trained from an ALBEF" in " ".join(capsys.readouterr().err.split())
