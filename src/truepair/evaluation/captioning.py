"""How good captions are: CIDEr-D, BLEU, ROUGE-L, METEOR and SPICE, by the scorers of ``pycocoevalcap``.

The package comes with ``pip install truepair[captioning]``. Its scorers take texts split into words, without
punctuation. It splits them with a Java program (PTBTokenizer of Stanford CoreNLP), and METEOR is one; where Java is not
there, `truepair.evaluation.words` splits by the same rules, and METEOR is left out. SPICE needs Java, too, and a parser
that the package fetches.
"""

import json
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

from truepair.errors import ConfigError, DataError
from truepair.evaluation.words import split_words
from truepair.files import write_text

References = Sequence[Sequence[str]]
"""The captions that people gave to each of some pictures."""

FIGURES = ("cider_d", "bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l", "meteor", "spice")
"""In the order in which tables show them."""

PTB = "PTBTokenizer (Java)"
_WITHOUT_JAVA = "repair java, or take it from the PATH to measure without it"
RULES = "the rules of PTBTokenizer, without Java"


@dataclass(frozen=True)
class CaptionFigures:
    """Figures of one caption for each of some pictures; 1 is perfect, for CIDEr-D 10.

    Attributes:
        figures: "cider_d", "bleu_1" to "bleu_4", "rouge_l", "meteor" where Java is there, and "spice" where its parser
            is there as well.
        words: what split the captions into words: ``PTB`` or ``RULES``.
    """

    figures: dict[str, float] = field(default_factory=dict)
    words: str = RULES


def require_scorers() -> None:
    """Check that figures can be computed.

    Raises:
        ConfigError: the package of scorers is not installed.
    """
    if find_spec("pycocoevalcap") is None:
        raise ConfigError("figures of captions need the pycocoevalcap package: pip install 'truepair[captioning]'")


def java_is_there() -> bool:
    """Whether programs of Java can be run."""
    return shutil.which("java") is not None


def missing_of_spice() -> str:
    """What SPICE lacks here, and where it comes from; empty where it can be computed."""
    if not java_is_there():
        return "it is a program of Java"
    require_scorers()
    from pycocoevalcap.spice import get_stanford_models as package

    folder = Path(package.__file__).with_name(package.SPICELIB)
    if all((folder / f"{package.JAR}{part}.jar").is_file() for part in ("", "-models")):
        return ""
    return f"its parser, {package.JAR}.jar with its models, is not in {folder}; python -m {package.__name__} fetches it"


def score_captions(
    captions: Mapping[str, Sequence[str]], references: References, *, java: bool = False
) -> dict[str, CaptionFigures]:
    """Compare captions of pictures with those that people gave them.

    CIDEr-D weighs words by how few of these pictures have them in a reference: of a single picture it is 0, and figures
    of different sets of pictures cannot be compared.

    Args:
        captions: by who wrote them, one of each picture.
        references: at least one of each picture.
        java: split words with PTBTokenizer itself, and compute METEOR.

    Raises:
        ConfigError: the package of scorers is not installed.
        DataError: no pictures, one without references, or a program of Java that fails.
    """
    require_scorers()
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    for who, texts in captions.items():
        if not references or len(texts) != len(references) or not all(references):
            raise DataError(
                f"{len(texts):,} captions ({who}) of {len(references):,} pictures, {sum(not r for r in references):,} "
                "of them without references; each picture needs a caption and a reference"
            )
    given, all_said = _in_words(captions, references, _split_by_java if java else _split_by_rules)
    scorers: dict[str, Any] = {"cider_d": Cider(), "rouge_l": Rouge()}
    if java:
        scorers["meteor"] = _meteor()
    found = {}
    for who, said in all_said.items():
        bleu, _ = Bleu(4).compute_score(given, said, verbose=0)
        figures = {f"bleu_{length}": float(value) for length, value in enumerate(bleu, 1)}
        try:
            figures |= {name: float(scorer.compute_score(given, said)[0]) for name, scorer in scorers.items()}
        except (OSError, ValueError) as error:  # of the one that is no Python
            raise DataError(f"METEOR's program of Java failed: {error}; {_WITHOUT_JAVA}") from error
        found[who] = CaptionFigures(
            {name: figures[name] for name in FIGURES if name in figures}, PTB if java else RULES
        )
    return found


def score_spice(captions: Mapping[str, Sequence[str]], references: References) -> dict[str, float]:
    """SPICE of captions by who wrote them, which `score_captions` has checked, where `missing_of_spice` is empty.

    Raises:
        DataError: its program fails, as with a Java much newer than 8.
    """
    from pycocoevalcap.spice.spice import Spice

    given, all_said = _in_words(captions, references, _split_by_java)
    try:
        return {who: float(Spice().compute_score(given, said)[0]) for who, said in all_said.items()}
    except (OSError, ValueError, subprocess.CalledProcessError) as error:
        raise DataError(f"SPICE's program of Java failed: {error}; it was made for Java 8") from error


def _in_words(
    captions: Mapping[str, Sequence[str]], references: References, split: Callable[[Sequence[str]], list[str]]
) -> tuple[dict[int, list[str]], dict[str, dict[int, list[str]]]]:
    """References by picture, and captions by who wrote them and by picture, as scorers take them."""
    counts = [len(texts) for texts in references]
    words = iter(split([text for texts in (*references, *captions.values()) for text in texts]))
    given = {picture: list(islice(words, count)) for picture, count in enumerate(counts)}
    said = {who: {picture: [text] for picture, text in enumerate(islice(words, len(references)))} for who in captions}
    return given, said


def most_frequent_caption(captions: Iterable[str]) -> str:
    """The caption that is said most often, whatever its case; the first in alphabetical order of equally frequent ones.

    Raises:
        DataError: there is none.
    """
    counts = Counter(" ".join(caption.lower().split()) for caption in captions)
    if not counts:
        raise DataError("a baseline needs at least one training caption")
    return min(counts, key=lambda caption: (-counts[caption], caption))


def write_caption_results(captions: Mapping[int, str], path: str | Path) -> None:
    """Write captions as COCO's evaluation takes them: a JSON list of image_id and caption, by image id.

    Args:
        captions: caption by image id.
        path: the file.

    Raises:
        DataError: the disk refuses.
    """
    entries = [{"image_id": image, "caption": captions[image]} for image in sorted(captions)]
    write_text(Path(path), json.dumps(entries))


def _split_by_rules(texts: Sequence[str]) -> list[str]:
    return [split_words(text) for text in texts]


def _split_by_java(texts: Sequence[str]) -> list[str]:
    """What the package's own tokenizer makes of texts, without the file that it writes beside its program."""
    from pycocoevalcap.tokenizer import ptbtokenizer as package

    program = Path(package.__file__).with_name(package.STANFORD_CORENLP_3_4_1_JAR)
    command = ["java", "-cp", str(program), "edu.stanford.nlp.process.PTBTokenizer", "-preserveLines", "-lowerCase"]
    lines = "".join(f"{' '.join(text.split())}\n" for text in texts)  # one text a line
    try:
        run = subprocess.run(command, input=lines.encode(), capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise DataError(f"Java cannot split the captions into words: {error}; {_WITHOUT_JAVA}") from error
    found = run.stdout.decode("utf-8", "replace").split("\n")[:-1]
    if len(found) != len(texts):
        raise DataError(f"PTBTokenizer split {len(found):,} of {len(texts):,} captions; {_WITHOUT_JAVA}")
    dropped = frozenset(package.PUNCTUATIONS)
    return [" ".join(word for word in line.split() if word not in dropped) for line in found]


def _meteor() -> Any:
    """The scorer of METEOR, whose program reads its tables once for all captions."""
    from pycocoevalcap.meteor.meteor import Meteor

    return Meteor()
