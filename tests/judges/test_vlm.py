import json
import shutil
import warnings
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor
from transformers import AutoModelForImageTextToText, AutoProcessor

from tests.judges.tiny_judges import preprocessing_of, save_clip
from tests.judges.tiny_vlms import save_idefics3, save_llava, save_paligemma, save_qwen2_vl
from truepair.data.open import open_pairs
from truepair.data.pairs import PairBatch, PairDataset
from truepair.data.table import PairTable
from truepair.errors import CheckpointError, ConfigError
from truepair.judges.base import PROMPT, JudgeConfig, JudgeInputs
from truepair.judges.open import open_judge
from truepair.judges.vlm import VlmJudge, answer_tokens, open_vlm

SAVE = {"llava": save_llava, "qwen2_vl": save_qwen2_vl, "idefics3": save_idefics3, "paligemma": save_paligemma}
SHAPES = [(16, 16), (32, 16), (12, 24), (30, 9)]
CAPTIONS = ["a red square", "small, blue and of no stated size", "white <image> square", "x"]
CELLS = [(0, 0), (1, 1), (0, 2), (2, 3), (0, 1), (1, 0), (3, 1), (0, 3)]  # three pictures with one caption or two


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> PairTable:
    """Four pictures of four shapes."""
    folder = tmp_path_factory.mktemp("shapes")
    lines = []
    generator = torch.Generator().manual_seed(0)
    for number, ((width, height), caption) in enumerate(zip(SHAPES, CAPTIONS, strict=True)):
        pixels = torch.randint(0, 255, (height, width, 3), generator=generator, dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).save(folder / f"{number}.png")
        lines.append(json.dumps({"image": f"{number}.png", "captions": [caption]}))
    (folder / "pairs.jsonl").write_text("\n".join(lines))
    return open_pairs(folder / "pairs.jsonl")


@pytest.fixture(scope="module")
def folders(table: PairTable, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    base = tmp_path_factory.mktemp("vlms")
    return {kind: save(base / kind, table) for kind, save in SAVE.items()}


def batch_of(table: PairTable) -> PairBatch:
    dataset = PairDataset(table, captions="first")
    return preprocessing_of(table).collator()([dataset[row] for row in range(len(table))])


def opened(folder: Path, table: PairTable, **options: object) -> VlmJudge:
    config = JudgeConfig(checkpoint=str(folder), kind="vlm", **options)  # type: ignore[arg-type]
    return open_vlm(config, JudgeInputs(table=table, preprocessing=preprocessing_of(table)), "cpu")


def slowly(folder: Path, table: PairTable, cells: list[tuple[int, int]], prompt: str = PROMPT) -> Tensor:
    """Each pair alone, through the model's own processor, chat and generation."""
    model, processor = AutoModelForImageTextToText.from_pretrained(folder).eval(), AutoProcessor.from_pretrained(folder)
    tokenizer = processor.tokenizer
    yes, no = (
        {tokenizer(space + form, add_special_tokens=False)["input_ids"][0] for form in forms for space in ("", " ")}
        for forms in (("yes", "Yes", "YES"), ("no", "No", "NO"))
    )
    found = []
    for row, text in cells:
        question = prompt.replace("{caption}", CAPTIONS[text].replace(processor.image_token, " "))
        picture = table.image(row)
        if processor.chat_template:
            content = [{"type": "image", "image": picture}, {"type": "text", "text": question}]
            inputs = processor.apply_chat_template(
                [{"role": "user", "content": content}],
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
            )
        else:
            inputs = processor(text=f"<image> {question}", images=picture, return_tensors="pt")
        inputs.pop("labels", None)
        said = model.generate(
            **inputs, max_new_tokens=1, do_sample=False, output_logits=True, return_dict_in_generate=True
        )
        words = said.logits[0][0].softmax(dim=0)
        found.append(words[list(yes)].sum() / words[list(yes | no)].sum())
    return torch.stack(found)


@pytest.mark.parametrize("kind", SAVE)
@pytest.mark.parametrize("pairs_at_once", [1, 3, 1024])
def test_it_says_what_the_model_would_generate(
    kind: str, pairs_at_once: int, table: PairTable, folders: dict[str, Path]
) -> None:
    judge = opened(folders[kind], table, pairs_at_once=pairs_at_once)
    images, texts = torch.tensor(CELLS).T
    scores = judge.score(batch_of(table), images, texts)
    torch.testing.assert_close(scores, slowly(folders[kind], table, CELLS), atol=2e-5, rtol=1e-4)
    assert scores.std() > 0.01 and not scores.requires_grad


@pytest.mark.parametrize("kind", ["llava", "qwen2_vl", "idefics3"])
def test_a_picture_of_several_captions_is_read_once(
    kind: str, table: PairTable, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = opened(folders[kind], table)
    pictures: list[int] = []
    forward = judge.model.forward

    def counted(**inputs: Tensor) -> object:
        pictures.append(int("pixel_values" in inputs))
        return forward(**inputs)

    monkeypatch.setattr(judge.model, "forward", counted)
    images, texts = torch.tensor([(0, 0), (2, 1), (0, 1), (0, 2), (2, 3)]).T
    judge.score(batch_of(table), images, texts)
    assert pictures == [1, 0, 1, 0]  # each picture, then all of its captions


def test_the_prompt_and_the_memory_are_those_of_the_config(table: PairTable, folders: dict[str, Path]) -> None:
    prompt = "{caption}: yes or no?"
    run = JudgeInputs(table=table, preprocessing=preprocessing_of(table))
    usual, other = (
        JudgeConfig(checkpoint=str(folders["llava"]), kind="vlm", **options) for options in ({}, {"prompt": prompt})
    )
    judges = [open_judge(config, run) for config in (usual, other)]
    assert judges[0].fingerprint != judges[1].fingerprint and judges[0].repeatable
    images, texts = torch.tensor(CELLS).T
    scores = [judge.score(batch_of(table), images, texts) for judge in judges]
    torch.testing.assert_close(scores[1], slowly(folders["llava"], table, CELLS, prompt), atol=2e-5, rtol=1e-4)
    assert (scores[0] - scores[1]).abs().max() > 0.01
    with pytest.raises(ConfigError, match=r"prompt is 'Yes\?'; put \{caption\} where the caption goes"):
        JudgeConfig(checkpoint="x", kind="vlm", prompt="Yes?")


def test_a_model_that_would_say_something_else_is_named_once(table: PairTable, folders: dict[str, Path]) -> None:
    judge = opened(folders["llava"], table)
    images, texts = torch.tensor(CELLS).T
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        judge.score(batch_of(table), images, texts)
    weights = judge.model.get_output_embeddings().weight
    weights[judge.yes], weights[judge.no] = 0.0, 0.0
    weights *= 20
    with pytest.warns(UserWarning, match=r"it does not take this for a question of yes or no.*; give another prompt"):
        judge.score(batch_of(table), images, texts)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        judge.score(batch_of(table), images, texts)


def test_spellings_are_summed_as_far_as_their_first_tokens_differ(
    table: PairTable, folders: dict[str, Path], tmp_path: Path
) -> None:
    tokenizer = AutoProcessor.from_pretrained(folders["llava"]).tokenizer
    yes, no = answer_tokens(tokenizer, "it")
    assert {tokenizer.decode([token]) for token in yes} == {"yes", "Yes", "YES", " yes", " Yes", " YES"}
    assert {tokenizer.decode([token]) for token in no} == {"no", "No", "NO", " no", " No", " NO"}
    words = preprocessing_of(table).tokenizer  # of captions: no word begins with yes
    with pytest.raises(CheckpointError, match="it has no token for yes and no apart, so it cannot judge"):
        answer_tokens(words, "it")


def test_what_cannot_be_asked_is_named_in_one_line(table: PairTable, folders: dict[str, Path], tmp_path: Path) -> None:
    clip = save_clip(tmp_path / "clip", table)
    with pytest.raises(CheckpointError, match="is a model of kind 'clip', which answers no questions about pictures"):
        opened(clip, table)
    with pytest.raises(CheckpointError, match=r"no model in .*nowhere"):
        opened(tmp_path / "nowhere", table)
    bare = tmp_path / "bare"
    AutoModelForImageTextToText.from_pretrained(folders["llava"]).save_pretrained(bare)
    with pytest.raises(CheckpointError, match="processor") as caught:
        opened(bare, table)
    assert "\n" not in str(caught.value)
    broken = tmp_path / "broken"
    shutil.copytree(folders["qwen2_vl"], broken)
    (broken / "chat_template.jinja").write_text("{% for m in messages %}")
    with pytest.raises(CheckpointError, match=r"the chat template of vlm .*broken fails") as caught:
        opened(broken, table)
    assert "\n" not in str(caught.value)
    (broken / "chat_template.jinja").write_text("no question")
    with pytest.raises(CheckpointError, match="does not put the picture, then the question"):
        opened(broken, table)


def test_code_of_a_checkpoint_is_never_run(table: PairTable, folders: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "foreign"
    shutil.copytree(folders["llava"], folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "model_type": "foreign",
        "auto_map": {"AutoConfig": "code.Config", "AutoModelForImageTextToText": "code.M"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(CheckpointError, match="needs code of its own"):
        opened(folder, table)
    assert not (tmp_path / "ran").exists()
