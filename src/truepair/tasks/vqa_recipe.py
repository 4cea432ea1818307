"""What visual question answering is trained and measured by."""

from dataclasses import dataclass, field, replace

from truepair.data.sample_tasks.store import ANSWERS, sample_vqa
from truepair.data.tasks.vqa_language import QUESTION
from truepair.data.tasks.vqa_source import VqaSource
from truepair.engine.loop.config import LoopConfig
from truepair.errors import ConfigError
from truepair.methods.towers import TowerOptimizerConfig
from truepair.settings import Natural, Positive, Weight
from truepair.tasks.start import StartConfig


@dataclass(frozen=True, kw_only=True)
class VqaDataConfig:
    """Where questions and answers come from.

    Attributes:
        sample: folder for the questions about the bundled drawings; they are written if it is not there, and stand for
            all that is not stated below.
        train: files of questions and answers; several (train, val, Visual Genome) become one set.
        validation: files for validation figures; empty for none.
        test: files whose questions are answered in the end; scored where their answers are known.
        answers: JSON list of the answers to choose from; empty to choose from the training answers.
        least_answers: choose from the training answers that at least so many people gave; where ``answers`` names no
            list.
        train_questions: train on this many of the questions, drawn by a hash of their ids; 0 for all.
        validation_questions: measure this many between epochs, drawn alike; 0 for all.
    """

    sample: str | None = None
    train: list[VqaSource] = field(default_factory=list)
    validation: list[VqaSource] = field(default_factory=list)
    test: list[VqaSource] = field(default_factory=list)
    answers: str = ""
    least_answers: Positive = 9
    train_questions: Natural = 0
    validation_questions: Natural = 0

    def filled(self) -> "VqaDataConfig":
        """The same with the files of the sample in place of what is not stated.

        Raises:
            ConfigError: there is nothing to train on.
        """
        if self.sample is not None:
            files = sample_vqa(self.sample)
            return replace(
                self,
                sample=None,
                train=self.train or [files["train"]],
                validation=self.validation or [files["val"]],
                test=self.test or [files["test"]],
                answers=self.answers or f"{self.sample}/{ANSWERS}",
            )
        if not self.train:
            raise ConfigError("data.train names no files; state them, or data.sample")
        return self


@dataclass(frozen=True, kw_only=True)
class VqaRecipe:
    """Fine-tuning on questions about images.

    Attributes:
        data: where questions and answers come from.
        model: what is started from, and which parts move.
        max_answer_length: most tokens of an answer, start and end included.
        list_vocabulary: the answer decoder knows the tokens of the answer list alone, and those of the choices that are
            trained on. Answers with others, which could not be chosen, are not trained on; a vocabulary head of 30,522
            tokens is saved.
        candidates: answers of each question that are scored in full (ALBEF: 128).
        generate: let the decoder write each answer, the likeliest token each time, in place of choosing from the list.
            A language model always writes, by beam search.
        prompt: what a language model reads of a question, which stands for ``{}``.
        beams: beginnings of each answer that the beam search of a language model keeps.
        length_penalty: the power of its number of tokens that the log-likelihood of an answer is divided by, where a
            language model writes it; below 0 favours short ones (BLIP-2: -1).
        similarity_weight: what the cosine of image and answer in ITC counts beside the answer's log-likelihood, in
            ranking alone; to be chosen on validation questions. Needs ``token_products``.
        difficult_questions: A-OKVQA's questions that are marked as difficult for answers in own words
            (difficult_direct_answer) count there, too; its evaluation leaves them out.
        batch_size: questions answered at once in evaluation.
        optimizer: how the weights move.
        loop: how long and how.
    """

    data: VqaDataConfig = field(default_factory=VqaDataConfig)
    model: StartConfig = field(default_factory=StartConfig)
    max_answer_length: Positive = 12
    list_vocabulary: bool = True
    candidates: Positive = 128
    generate: bool = False
    prompt: str = "Question: {} Short answer:"
    beams: Positive = 5
    length_penalty: float = -1.0
    similarity_weight: Weight = 0.0
    difficult_questions: bool = False
    batch_size: Positive = 64
    optimizer: TowerOptimizerConfig = field(default_factory=TowerOptimizerConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)

    def __post_init__(self) -> None:
        if self.prompt.count(QUESTION) != 1:
            raise ConfigError(f"prompt is '{self.prompt:.60}'; it must hold {QUESTION} once, where the question stands")
        if self.generate and self.similarity_weight:
            raise ConfigError("similarity_weight ranks a list, and generate writes without one; drop one of both")
