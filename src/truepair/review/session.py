"""A review of a mined folder: what is asked next, what was said, the judge that learns from it, the certificate."""

import threading
from collections.abc import Callable, Collection
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import Any

import numpy as np

from truepair.errors import ConfigError, DataError
from truepair.judges.answered import AnsweredConfig, AnsweredFit, AnsweredJudge, Standardised, fit_answered
from truepair.mining.asking import next_round
from truepair.mining.candidates import Candidates, Floats, require_own_ledger
from truepair.mining.certification import plan_certificate
from truepair.randomness import stable_hash
from truepair.relations.standing import Standing
from truepair.review.answers import KINDS, Answer, AnswerLog, line_of, now, standing
from truepair.review.attempts import Attempt
from truepair.review.cells import Cell, Cells, Opinions
from truepair.review.exchange import read_answers, write_answers
from truepair.review.figures import (
    Judged,
    expected_figures,
    judge_figures,
    people_figures,
    seconds_each,
    signal_reliability,
)
from truepair.review.ledger import write_reviewed

EACH = 10
"""The judge is fitted after so many answers."""

GOAL = 200
"""Answers after which a certificate that was wanted from the start is begun."""

_LATER = 50  # answers after which that is tried again, where the judge promised too little
_AGAIN = 12  # every so many questions a further person is asked what another has answered
_LEASE = 600.0  # seconds for which a question on one person's screen is not put to others


@dataclass(frozen=True)
class Question:
    """Is this caption true of this picture?

    Attributes:
        key: of the pair, "picture-caption".
        picture: number of the picture.
        caption: number of the caption.
        text: the caption.
        own: the captions that the picture was declared with.
        owner: number of the first picture that the caption was declared for.
        owner_captions: the captions of that one.
        probability: of a match, by the judge.
        why: it is asked: "rank", "uncertain", "sample", "again".
    """

    key: str
    picture: int
    caption: int
    text: str
    own: list[str]
    owner: int
    owner_captions: list[str]
    probability: float
    why: str

    def to_json(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


@dataclass
class _Lease:
    """A question that a person has before them.

    Attributes:
        person: who.
        why: it was asked.
        until: when it is free again, on the monotonic clock.
    """

    person: str
    why: str
    until: float


@dataclass(frozen=True)
class _Fitted:
    """A fit on the answers.

    Attributes:
        fit: judge and held-back log-odds.
        judged: what it was made on.
        log_odds: of all candidates [P].
        answers: how many answers there were.
    """

    fit: AnsweredFit
    judged: Judged
    log_odds: Floats
    answers: int

    @property
    def probabilities(self) -> Floats:
        """Of all candidates [P]."""
        from scipy.special import expit

        found: Floats = expit(self.log_odds)
        return found

    def probability(self, number: int) -> float:
        """Of a candidate."""
        from scipy.special import expit

        return float(expit(self.log_odds[number]))


class ReviewSession:
    """Asks people about candidates and learns from them. May be called by several threads at once.

    What is asked depends on the seed and the answers alone, not on how fast they come: a question waits for a fit that
    is due.

    Args:
        folder: made by ``truepair mine``.
        precision: begin a certificate of this precision after 200 answers; None to wait for :meth:`certify`.
        seed: of what is asked.
        say: prints a line.
        config: how far answers move the judge.

    Raises:
        ConfigError: another process reviews the folder.
        DataError: it holds no candidates, or its answers are damaged.
    """

    def __init__(
        self,
        folder: Path,
        *,
        precision: float | None = None,
        seed: int = 0,
        say: Callable[[str], None] = lambda _: None,
        config: AnsweredConfig | None = None,
    ) -> None:
        self.folder = folder
        self.precision = precision
        self.seed = seed
        self.candidates = Candidates.load(folder)
        require_own_ledger(folder, self.candidates)
        self._say = say
        self._config = config
        self._cells = Cells(self.candidates)
        self._signals = Standardised.of(self.candidates.signals)
        self._lock = threading.RLock()
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="review")
        self._log = AnswerLog(folder, say)
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        self._answers: dict[tuple[str, Cell], Answer] = {}
        self._strange = 0
        self._attempts: list[Attempt] = []
        for line in self._log.lines:
            if line["kind"] == "sample":
                self._attempts.append(Attempt.of_line(line))
        self._take([Answer.of(line) for line in self._log.lines if line["kind"] == "answer"])
        if self._strange:
            self._say(f"{self._strange:,} answers are about pictures or captions that were not mined now; they wait")
        self._leases: dict[int, _Lease] = {}
        self._queue: list[tuple[int, str]] = []
        self._figures: dict[str, Any] = {}
        self._tried = GOAL
        self._tens = len(self._answers) // EACH
        kept = len(self._answers) - len(self._answers) % EACH
        self._fitted = self._fit(dict(list(self._answers.items())[:kept]))
        self._due: Future[None] | None = None
        self._worker.submit(self._measure, self._fitted)

    def __enter__(self) -> "ReviewSession":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End it, and let others open the folder."""
        self._worker.shutdown(wait=True)
        self._log.close()

    # Asking and answering

    def ask(self, person: str, besides: Collection[str] = ()) -> Question | None:
        """The next question for a person.

        Until it is answered, the same is returned again.

        Args:
            person: who is asked.
            besides: keys of questions that are on the screen, or whose answers are under way.

        Returns:
            None where nothing is left to ask.

        Raises:
            DataError: a fit failed.
        """
        self._settle()
        self._certify_when_due()
        with self._lock:
            clock = monotonic()
            self._leases = {number: lease for number, lease in self._leases.items() if lease.until > clock}
            shown = {self._cells.number(self._cells.of_key(key)) for key in besides}
            held = [number for number, lease in self._leases.items() if lease.person == person and number not in shown]
            if held:
                return self._lease(person, held[0], self._leases[held[0]].why)
            found = self._choose(person, shown)
            return None if found is None else self._lease(person, *found)

    def answer(self, person: str, key: str, answer: str, note: str = "", seconds: float | None = None) -> None:
        """Keep an answer; it is on the disk when this returns. One that is handed in twice is kept once.

        Args:
            person: who answers.
            key: of the question.
            answer: one of :data:`truepair.review.answers.KINDS`.
            note: of the person.
            seconds: that the person took.

        Raises:
            DataError: no candidate has that key, it is no answer, or the disk refuses.
        """
        if answer not in KINDS:
            raise DataError(f"'{answer}' is no answer; give one of {', '.join(KINDS)}")
        with self._lock:
            cell = self._cells.of_key(key)
            number = self._cells.number(cell)
            assert number is not None
            before = self._answers.get((person, cell))
            if before is not None and before.answer == answer:
                return
            lease = self._leases.get(number)
            given = self._answer(
                person,
                cell,
                answer,
                note=note,
                why=lease.why if lease is not None else "sample" if self._in_sample(number) else "",
                probability=self._fitted.probability(number),
                seconds=seconds,
            )
            self._log.append([line_of(given)])
            self._take([given])
            if lease is not None and lease.person == person:
                del self._leases[number]
            self._refit_when_due()

    def undo(self, person: str) -> Question | None:
        """Take a person's last answer back, and ask it again.

        Returns:
            Its question; None where there is nothing to take back.

        Raises:
            DataError: the disk refuses.
        """
        with self._lock:
            own = [cell for who, cell in self._answers if who == person]
            numbers = [(cell, number) for cell in own if (number := self._cells.number(cell)) is not None]
            if not numbers:
                return None
            cell, number = numbers[-1]
            before = self._answers[person, cell]
            given = self._answer(person, cell, "undo")
            self._log.append([line_of(given)])
            self._take([given])
            self._leases = {number: _Lease(person, before.why, 0.0), **self._leases}  # the first of the person's
            return self._lease(person, number, before.why)

    def _answer(self, person: str, cell: Cell, answer: str, **more: Any) -> Answer:
        candidates = self.candidates
        picture, caption = cell
        owner = int(candidates.owners[caption][0])
        return Answer(
            time=now(),
            person=person,
            image_id=int(candidates.image_ids[picture][0]),
            caption_id=int(candidates.caption_ids[caption][0]),
            other_id=int(candidates.image_ids[owner][0]) if answer == "same_picture" else None,
            answer=answer,
            picture=picture,
            caption=caption,
            text=candidates.texts[caption],
            image=candidates.paths[picture] or "",
            **more,
        )

    def _take(self, answers: list[Answer]) -> None:
        """Count answers in the order of the log."""
        cells = {}
        for answer in answers:
            cell = self._cells.of_answer(answer)
            if cell is None:
                self._strange += 1
            else:
                cells[id(answer)] = cell
        known = [answer for answer in answers if id(answer) in cells]
        self._answers = standing([*self._answers.values(), *known], self._cell)

    def _cell(self, answer: Answer) -> Cell:
        cell = self._cells.of_answer(answer)
        assert cell is not None
        return cell

    def _lease(self, person: str, number: int, why: str) -> Question:
        self._leases.setdefault(number, _Lease(person, why, 0.0)).until = monotonic() + _LEASE
        candidates = self.candidates
        picture, caption = self._cells.of_candidate(number)
        owner = int(candidates.owners[caption][0])
        own, others = ([candidates.texts[each] for each in candidates.own[which]] for which in (picture, owner))
        probability = self._fitted.probability(number)
        text = candidates.texts[caption]
        return Question(f"{picture}-{caption}", picture, caption, text, own, owner, others, probability, why)

    def _choose(self, person: str, shown: Collection[int | None]) -> tuple[int, str] | None:
        """A pair for a person, and why it is asked."""
        cells = [cell for who, cell in self._answers if who == person]
        answered = {number for cell in cells if (number := self._cells.number(cell)) is not None}
        taken = {*self._leases, *answered} | set(shown)
        attempt = self._attempt
        if attempt is not None:
            progress = attempt.progress(self._found(attempt))
            for number in () if progress.over else progress.waiting:
                if number not in taken:
                    return number, "sample"
        again = self._again(person, answered, taken)
        if again is not None:
            return again, "again"
        opinions = self._opinions
        self._queue = [(number, why) for number, why in self._queue if self._open_to_ask(number, opinions, taken)]
        if not self._queue:
            free = self._cells.free(opinions)
            free[[number for number in taken if number is not None]] = False
            draw = stable_hash(self.seed, len(self._answers))
            self._queue = next_round(self._fitted.log_odds, free, self._fitted.answers, draw)
        return self._queue.pop(0) if self._queue else None

    def _open_to_ask(self, number: int, opinions: Opinions, taken: Collection[int | None]) -> bool:
        return number not in taken and self._cells.of_candidate(number) not in opinions

    def _again(self, person: str, answered: Collection[int], taken: Collection[int | None]) -> int | None:
        """Now and then, for all but the first person: a pair that another has judged, so that agreement is known."""
        first = next((who for who, _ in self._answers), person)
        if person == first or len(answered) % _AGAIN != _AGAIN - 1:
            return None
        if any(lease.person == person and lease.why == "again" for lease in self._leases.values()):
            return None
        others = [
            number
            for (who, cell), answer in self._answers.items()
            if who != person and answer.match is not None
            if (number := self._cells.number(cell)) is not None and number not in taken
        ]
        return others[stable_hash(self.seed, person, len(answered)) % len(others)] if others else None

    # The judge

    @property
    def _opinions(self) -> Opinions:
        return self._cells.opinions(self._answers)

    def _judged(self, answers: dict[tuple[str, Cell], Answer]) -> Judged:
        numbers, shares = [], []
        for cell, said in self._cells.opinions(answers).items():
            number = self._cells.number(cell)
            clear = [match for match in said.values() if match is not None]
            if number is not None and clear:
                numbers.append(number)
                shares.append(sum(clear) / len(clear))
        which = np.array(numbers, np.int64)
        return Judged(which, np.array(shares, np.float64), self.candidates.pictures[which])

    def _fit(self, answers: dict[tuple[str, Cell], Answer]) -> _Fitted:
        judged = self._judged(answers)
        fit = fit_answered(
            self.candidates.names,
            self._signals,
            self.candidates.prior,
            judged.numbers,
            judged.shares,
            judged.pictures,
            self._config,
        )
        log_odds = fit.judge.log_odds_of(self._signals.values, self.candidates.prior)
        return _Fitted(fit, judged, log_odds, len(answers))

    def _refit_when_due(self) -> None:
        """Fit in the background whenever ten more answers are there; the lock is held."""
        tens = len(self._answers) // EACH
        if tens != self._tens:
            self._tens = tens
            self._due = self._worker.submit(self._refit, dict(self._answers))

    def _refit(self, answers: dict[tuple[str, Cell], Answer]) -> None:
        fitted = self._fit(answers)
        with self._lock:
            self._fitted = fitted
            self._queue = []
        self._worker.submit(self._measure, fitted)

    def _refit_all(self) -> None:
        """Fit on every answer, and wait for it."""
        with self._lock:
            self._due = self._worker.submit(self._refit, dict(self._answers))
        self._settle()

    def _settle(self) -> None:
        """Wait for a fit that is due."""
        due = self._due
        if due is not None:
            due.result()

    def _measure(self, fitted: _Fitted) -> None:
        with self._lock:
            free = self._cells.free(self._opinions)
        found = judge_figures(fitted.judged, fitted.fit)
        found["expected"] = expected_figures(fitted.probabilities, free) if fitted.fit.judge.answers else []
        found["signal_reliability"] = signal_reliability(self.candidates, fitted.judged)
        with self._lock:
            self._figures = found

    # The certificate and the end

    def certify(self, precision: float, confidence: float = 0.95) -> None:
        """Begin a certificate: the judge is fitted on all answers and kept, a sample is drawn, and is asked next.

        Args:
            precision: to be stated.
            confidence: of the statement.

        Raises:
            ConfigError: the last sample is still being asked, nobody has answered, or the judge promises too little.
            DataError: the disk refuses.
        """
        self._refit_all()
        with self._lock:
            attempt = self._attempt
            if attempt is not None:
                progress = attempt.progress(self._found(attempt))
                if not progress.over:
                    raise ConfigError(
                        f"a sample for {attempt.plan.precision:.0%} is being asked, {len(progress.waiting)} pairs of "
                        "it are left; answer those first"
                    )
            judge = self._fitted.fit.judge
            if not judge.answers:
                raise ConfigError("nobody has answered yet; answer some pairs first, about 100")
            number = len(self._attempts) + 1
            plan = plan_certificate(
                self._fitted.probabilities,
                self._cells.free(self._opinions),
                precision,
                confidence,
                seed=stable_hash(self.seed, "sample", number),
            )
            judge.save(self._judge_file(judge.name))
            begun = Attempt(number, now(), judge.name, self.candidates.fingerprint, plan)
            self._log.append([begun.line()])
            self._attempts.append(begun)

    def _certify_when_due(self) -> None:
        """Begin the certificate that was wanted from the start; later, where the judge promises too little as yet."""
        with self._lock:
            if self.precision is None or self._attempts or len(self._answers) < self._tried:
                return
            self._tried = len(self._answers) + _LATER
        try:
            self.certify(self.precision)
        except ConfigError as error:
            self._say(f"no certificate yet: {error}")

    @property
    def _attempt(self) -> Attempt | None:
        """The last attempt at these candidates."""
        return next((one for one in reversed(self._attempts) if one.candidates == self.candidates.fingerprint), None)

    def _found(self, attempt: Attempt) -> dict[int, bool]:
        """Whether the answered pairs of a sample match: all who spoke said so."""
        opinions = self._opinions
        found = {}
        for number in attempt.numbers:
            said = opinions.get(self._cells.of_candidate(number))
            if said is not None:
                found[number] = all(match is True for match in said.values())
        return found

    def _in_sample(self, number: int) -> bool:
        return self._attempt is not None and number in self._attempt.numbers

    def _judge_file(self, name: str) -> Path:
        return self.folder / "judges" / f"{name.partition(':')[2]}.json"

    def finish(self) -> Standing:
        """Write ``ledger/``: the judge's probabilities of at least .1, what people said, and what it all stands on.

        Where a certificate was issued, the judge that it is about is written, as it was then, until there is a newer
        certificate.

        Returns:
            What was written beside the verdicts.

        Raises:
            ConfigError: nobody has judged any pair.
            DataError: the disk refuses.
            CheckpointError: the certified judge is gone.
        """
        self._refit_all()
        with self._lock:
            judge, log_odds = self._fitted.fit.judge, self._fitted.log_odds
            if not judge.answers:
                raise ConfigError("nobody has said yes or no to any pair; the ledger stays as truepair mine wrote it")
            answers, certificate = judge.answers, None
            for attempt in reversed(self._attempts):
                if attempt.candidates == self.candidates.fingerprint:
                    certificate = attempt.certificate(self._found(attempt), self._speakers(attempt))
                    if certificate is not None:
                        break
            if certificate is not None and certificate.judge != judge.name:
                certified = AnsweredJudge.load(self._judge_file(certificate.judge))
                later = answers - certified.answers
                self._say(
                    f"the ledger keeps the judge that was certified; {later:,} later answers count for themselves"
                )
                judge, log_odds = certified, certified.log_odds(self.candidates.signals, self.candidates.prior)
            judge.save(self._judge_file(judge.name))
            before = Standing.load(self.folder / "ledger")
            stands = Standing(
                judge=judge.name,
                answers=answers,
                labels=0 if before is None else before.labels,
                certificate=certificate,
            )
            written = write_reviewed(self.folder / "ledger", self._cells, log_odds, self._opinions, stands)
        self._say(
            f"{written:,} verdicts of {judge.name} and {answers:,} pairs judged by people: {self.folder / 'ledger'}"
        )
        return stands

    def _speakers(self, attempt: Attempt) -> tuple[str, ...]:
        opinions = self._opinions
        cells = [self._cells.of_candidate(number) for number in attempt.numbers]
        return tuple(sorted({person for cell in cells for person in opinions.get(cell, {})}))

    # How it stands

    def state(self, person: str) -> dict[str, Any]:
        """How the review stands; only JSON types.

        Returns:
            ``answers`` by kind, ``people`` by person and kind, ``matches`` found, ``agreement`` (pairs, agreed, kappa),
            ``average_precision`` (value, low, high, answers), ``more`` (answers, average_precision), ``expected``
            (precision, pairs, threshold), ``certificate`` (precision, confidence, attempt, asked, of, matched, held,
            sentence), ``pairs_a_minute``, ``seconds_left``, ``reliability`` (predicted, observed, low, high, pairs) and
            ``signal_reliability`` by signal; None for what is not known yet.
        """
        with self._lock:
            own = [answer for (who, _), answer in self._answers.items() if who == person]
            found = people_figures(self._answers, self._opinions)
            found |= {"average_precision": None, "more": None, "expected": [], "reliability": []} | self._figures
            attempt = self._attempt
            left = GOAL - len(self._answers) % GOAL
            found["certificate"] = None
            if attempt is not None:
                answered = self._found(attempt)
                found["certificate"] = attempt.state(answered, self._speakers(attempt))
                left = 0 if found["certificate"]["held"] is not None else len(attempt.progress(answered).waiting)
            each = seconds_each(own)
            found["pairs_a_minute"] = None if each is None else 60 / each
            found["seconds_left"] = None if each is None or not left else each * left
            return found

    # Files

    def import_answers(self, file: Path) -> str:
        """Take the answers of a file: JSONL, CSV, or Label Studio's JSON, by its suffix.

        Args:
            file: what it holds on pairs of other data, or says here already, is counted and left out.

        Returns:
            A line that says what became of them.

        Raises:
            DataError: it cannot be read, or a caption has another text here.
        """
        read = read_answers(file)
        return self._import(read.answers, read.left_out, file)

    def replay(self, file: Path, precision: float | None = None) -> None:
        """Take the answers of a file as if they came one by one, with the certificate among them.

        Answers up to the first that was given to a random sample are taken; then the certificate is begun, and the
        others are taken. The sample is the same as then, since it depends on candidates, answers and seed alone.

        Args:
            file: as for :meth:`import_answers`.
            precision: to be stated; None for no certificate.

        Raises:
            ConfigError: the judge promises too little for a certificate.
            DataError: the file cannot be read, or is about other data.
        """
        read = read_answers(file)
        place = next((place for place, one in enumerate(read.answers) if one.why == "sample"), len(read.answers))
        self._import(read.answers[:place], read.left_out, file)
        if precision is not None and self._attempt is None:
            self.certify(precision)
        if place < len(read.answers):
            self._import(read.answers[place:], 0, file)
        self._refit_all()
        self._worker.submit(_nothing).result()  # the figures of that fit are there

    def export_answers(self, file: Path) -> None:
        """Write the answers that count to a file: JSONL, CSV, or Label Studio's JSON, by its suffix.

        Raises:
            ConfigError: an unknown suffix.
            DataError: the disk refuses.
        """
        with self._lock:
            answers = list(self._answers.values())
        write_answers(file, answers)

    def _import(self, answers: list[Answer], left_out: int, file: Path) -> str:
        with self._lock:
            fresh, strange, known = [], 0, 0
            for place, answer in enumerate(answers, start=1):
                try:
                    cell = self._cells.of_answer(answer)
                except DataError as error:
                    raise DataError(f"{file}, answer {place}: {error}") from error
                before = None if cell is None else self._answers.get((answer.person, cell))
                if cell is None:
                    strange += 1
                elif before is not None and (before.answer == answer.answer or before.time >= answer.time):
                    known += 1
                else:
                    fresh.append(answer)
            self._log.append([line_of(answer) for answer in fresh])
            self._take(fresh)
            self._refit_when_due()
        parts = [f"{len(fresh):,} answers were taken from {file}"]
        parts += [f"{known:,} were here already, or older"] if known else []
        parts += [f"{strange:,} are about pairs that were not mined here"] if strange else []
        parts += [f"{left_out:,} lines are no answers"] if left_out else []
        line = "; ".join(parts)
        self._say(line)
        return line


def _nothing() -> None:
    """What is done when all before it is done."""
