"""Figures of captions: those of the scorers themselves, with words as PTBTokenizer splits them."""

import json
import subprocess
from pathlib import Path

import pytest

from truepair.errors import ConfigError, DataError
from truepair.evaluation import captioning
from truepair.evaluation.captioning import (
    PTB,
    RULES,
    CaptionFigures,
    References,
    java_is_there,
    most_frequent_caption,
    require_scorers,
    write_caption_results,
)
from truepair.evaluation.words import split_words

# What PTBTokenizer of Stanford CoreNLP 3.4.1 made of texts, as pycocoevalcap calls it and leaves its punctuation out.
RECORDED = {
    "A dog, running; it's John's dog -- isn't it?": "a dog running it 's john 's dog is n't it",
    "I cannot believe you're gonna do that... wanna gimme \"this\" 'now'": (
        "i can not believe you 're gon na do that wan na gim me this now"
    ),
    "colour grey (left) [right] {curly} e.g. Mr. Smith's U.S. flag at 3:30 p.m.": (
        "colour grey -lrb- left -rrb- -lsb- right -rsb- -lcb- curly -rcb- e.g. mr. smith 's u.s. flag at 3:30 p.m."
    ),
    "1,000 people & 3.5 cats 50% off $5 #1 @home a/b red/white well-known t-shirt 1/2 2-3 rock'n'roll": (
        "1,000 people & 3.5 cats 50 % off $ 5 # 1 @home a/b red/white well-known t-shirt 1/2 2-3 rock 'n' roll"
    ),
    "it\u2019s \u201cquoted\u201d text \u2013 dash \u2014 em\u2026 caf\u00e9 na\u00efve": (
        "it 's quoted text dash em caf\u00e9 na\u00efve"
    ),
    "He'll we've they'd I'm she's can't won't couldn't ain't y'all 'em": (
        "he 'll we 've they 'd i 'm she 's ca n't wo n't could n't ai n't y' all 'em"
    ),
    "two-story T.V. TV. Dr. St. no. etc. jr. vs. approx. ft. in. ": (
        "two-story t.v. tv dr. st. no etc. jr. vs. approx ft. in"
    ),
    "an 8-year-old boy 10th 1st No.5 C++ AT&T R&B b/w": "an 8-year-old boy 10th 1st no. 5 c++ at&t r&b b/w",
    "lemme dunno gotta shoulda d'ye more'n whaddya": "lem me dunno got ta shoulda d'ye more 'n whaddya",
    "'tis the dogs' house. 1980's 80s '80s": "'t is the dogs house 1980 's 80s '80s",
    "one o\u2019clock, o'clock; the \u2019n\u2019 y\u2019all": "one o\u2019clock o'clock the \u2019n\u2019 y\u2019 all",
    "5'10\" tall, 20\" screen, 6' tall": "5 10 tall 20 screen 6 tall",
    "+1, good, -1, bad": "+1 good -1 bad",
    "Hello!!! What?! end.The next wait....what": "hello !!! what ?! end.the next wait what",
    "dog \U0001f436 dog": "dog dog",
}

CAPTIONS = ["A dog runs on the beach.", "two men", "a red bus, parked near a house"]
REFERENCES = [
    ["A dog is running on the beach", "The dog runs."],
    ["Two men stand by a bus!", "two men, a bus", "Men."],
    ["a red bus parked in front of a house"],
]


def score_captions(captions: list[str], references: References, *, java: bool = False) -> CaptionFigures:
    return captioning.score_captions({"somebody": captions}, references, java=java)["somebody"]


@pytest.mark.parametrize("text", RECORDED)
def test_words_are_those_that_were_recorded(text: str) -> None:
    assert split_words(text) == RECORDED[text]


def test_figures_are_those_of_the_scorers() -> None:
    cider = pytest.importorskip("pycocoevalcap.cider.cider")
    bleu, rouge = (pytest.importorskip(f"pycocoevalcap.{name}") for name in ("bleu.bleu", "rouge.rouge"))
    given = {
        "x": ["a dog is running on the beach", "the dog runs"],
        "y": ["two men stand by a bus", "two men a bus", "men"],
        "z": ["a red bus parked in front of a house"],
    }
    said = {"x": ["a dog runs on the beach"], "y": ["two men"], "z": ["a red bus parked near a house"]}
    scores = score_captions(CAPTIONS, REFERENCES)
    expected = {"cider_d": cider.Cider().compute_score(given, said)[0]}
    parts, _ = bleu.Bleu(4).compute_score(given, said, verbose=0)
    expected |= {f"bleu_{length}": part for length, part in enumerate(parts, 1)}
    expected["rouge_l"] = rouge.Rouge().compute_score(given, said)[0]
    assert scores.figures == pytest.approx(expected, abs=1e-6) and scores.words == RULES
    assert 0.1 < expected["cider_d"] < 10 and all(0 < value < 1 for name, value in expected.items() if "_d" not in name)


def test_a_perfect_caption_and_one_that_is_not() -> None:
    pytest.importorskip("pycocoevalcap")
    perfect = score_captions([texts[0] for texts in REFERENCES], [texts[:1] for texts in REFERENCES])
    assert perfect.figures["bleu_4"] == pytest.approx(1) and perfect.figures["rouge_l"] == pytest.approx(1)
    assert score_captions(["no such words"] * 3, REFERENCES).figures["cider_d"] == 0
    assert score_captions([""] * 3, REFERENCES).figures["rouge_l"] == 0, "an empty caption is a bad one, no error"


@pytest.mark.skipif(not java_is_there(), reason="there is no Java")
def test_java_splits_alike_and_adds_meteor() -> None:
    pytest.importorskip("pycocoevalcap")
    from truepair.evaluation.captioning import _split_by_java

    assert _split_by_java(list(RECORDED)) == list(RECORDED.values())
    captions = [*CAPTIONS[:2], ""]
    with_java, without = score_captions(captions, REFERENCES, java=True), score_captions(captions, REFERENCES)
    assert with_java.words == PTB and 0.05 < with_java.figures["meteor"] < 1
    rest = {name: value for name, value in with_java.figures.items() if name != "meteor"}
    assert rest == pytest.approx(dict(without.figures), abs=1e-9)


def test_spice_is_asked_for_the_words_of_java_where_its_parser_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pycocoevalcap")
    from pycocoevalcap.spice import get_stanford_models, spice

    monkeypatch.setattr(captioning, "java_is_there", lambda: False)
    assert captioning.missing_of_spice() == "it is a program of Java"
    monkeypatch.setattr(captioning, "java_is_there", lambda: True)
    monkeypatch.setattr(get_stanford_models, "__file__", str(tmp_path / "get_stanford_models.py"))
    assert captioning.missing_of_spice() == (
        f"its parser, stanford-corenlp-3.6.0.jar with its models, is not in {tmp_path / 'lib'}; python -m "
        "pycocoevalcap.spice.get_stanford_models fetches it"
    )
    (tmp_path / "lib").mkdir()
    for part in ("", "-models"):
        (tmp_path / "lib" / f"stanford-corenlp-3.6.0{part}.jar").touch()
    assert captioning.missing_of_spice() == ""

    asked = []

    class Scorer:
        def compute_score(self, given: dict[int, list[str]], said: dict[int, list[str]]) -> tuple[float, list[float]]:
            asked.append((given, said))
            return 0.1 * len(asked), []

    monkeypatch.setattr(spice, "Spice", Scorer)
    monkeypatch.setattr(captioning, "_split_by_java", lambda texts: [split_words(text) for text in texts])
    scores = captioning.score_spice({"a": CAPTIONS, "b": ["x", "y", "z"]}, REFERENCES)
    assert scores == {"a": 0.1, "b": 0.2}
    assert asked[0][0][1] == ["two men stand by a bus", "two men a bus", "men"]
    assert asked[1][1] == {0: ["x"], 1: ["y"], 2: ["z"]}

    def fails(self: Scorer, given: object, said: object) -> None:
        raise subprocess.CalledProcessError(1, "java")

    monkeypatch.setattr(Scorer, "compute_score", fails)
    with pytest.raises(DataError, match=r"SPICE's program of Java failed: .*; it was made for Java 8"):
        captioning.score_spice({"a": CAPTIONS}, REFERENCES)


def test_each_who_writes_is_measured_for_himself() -> None:
    pytest.importorskip("pycocoevalcap")
    by_whom = {"model": CAPTIONS, "nobody": ["x", "y", "z"]}
    together = captioning.score_captions(by_whom, REFERENCES)
    assert together == {who: score_captions(captions, REFERENCES) for who, captions in by_whom.items()}


def test_every_picture_needs_a_reference() -> None:
    pytest.importorskip("pycocoevalcap")
    with pytest.raises(DataError, match=r"1 captions \(somebody\) of 2 pictures, 1 of them without references"):
        score_captions(["a"], [["a"], []])


def test_without_the_package_a_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("truepair.evaluation.captioning.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"need the pycocoevalcap package: pip install 'truepair\[captioning\]'"):
        require_scorers()


def test_the_usual_caption() -> None:
    assert most_frequent_caption(["A  dog", "a cat", "a Cat", "a dog", "x"]) == "a cat"
    with pytest.raises(DataError, match="at least one training caption"):
        most_frequent_caption([])


def test_results_are_as_coco_takes_them(tmp_path: Path) -> None:
    write_caption_results({42: "a dog", 9: "a cat"}, tmp_path / "captions.json")
    expected = [{"image_id": 9, "caption": "a cat"}, {"image_id": 42, "caption": "a dog"}]
    assert json.loads((tmp_path / "captions.json").read_text()) == expected


def test_java_that_does_not_run_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pycocoevalcap")
    (tmp_path / "java").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "java").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with pytest.raises(DataError, match=r"Java cannot split the captions into words: .*; repair java, or take it from"):
        score_captions(CAPTIONS, REFERENCES, java=True)
