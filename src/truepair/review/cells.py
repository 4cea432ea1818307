"""What answers are about: ids become pictures and captions of the candidates, and answers become opinions on cells."""

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from truepair.errors import DataError
from truepair.mining.candidates import Candidates
from truepair.mining.gallery import Integers, Lists
from truepair.review.answers import Answer

Cell = tuple[int, int]
"""Numbers of a picture and a caption."""

Opinions = dict[Cell, dict[str, bool | None]]
"""What each person says of a cell; None where it is left open."""


class Cells:
    """Finds cells by ids and candidates by cells.

    Args:
        candidates: of a mined folder.
    """

    def __init__(self, candidates: Candidates) -> None:
        self.candidates = candidates
        self._image_ids, self._caption_ids = (
            _Lookup(lists) for lists in (candidates.image_ids, candidates.caption_ids)
        )
        cells = candidates.pictures * len(candidates.texts) + candidates.captions
        self._order = np.argsort(cells, kind="stable")
        self._sorted = cells[self._order]

    def number(self, cell: Cell) -> int | None:
        """Number of the candidate of a cell; None where it is none."""
        wanted = cell[0] * len(self.candidates.texts) + cell[1]
        place = int(np.searchsorted(self._sorted, wanted))
        return int(self._order[place]) if place < len(self._sorted) and self._sorted[place] == wanted else None

    def of_key(self, key: str) -> Cell:
        """The cell of a question's key.

        Raises:
            DataError: no candidate has it.
        """
        picture, dash, caption = key.partition("-")
        if dash and all(part.isascii() and part.isdigit() and len(part) < 16 for part in (picture, caption)):
            cell = (int(picture), int(caption))
            if cell[1] < len(self.candidates.texts) and self.number(cell) is not None:
                return cell
        raise DataError(f"there is no candidate {key}; reload the page")

    def of_candidate(self, number: int) -> Cell:
        """The cell of a candidate."""
        return int(self.candidates.pictures[number]), int(self.candidates.captions[number])

    def of_answer(self, answer: Answer) -> Cell | None:
        """The cell that an answer is about, by any ids of its picture and caption; None where it is not of this data.

        Raises:
            DataError: the caption of that id is another text here.
        """
        picture, caption = self._image_ids.find(answer.image_id), self._caption_ids.find(answer.caption_id)
        if picture is None or caption is None:
            return None
        text = self.candidates.texts[caption]
        if answer.text and " ".join(answer.text.split()).casefold() != " ".join(text.split()).casefold():
            raise DataError(
                f"caption {answer.caption_id} is '{text}' here, and '{answer.text}' in the answers; they are of other "
                "data, or of another order of it"
            )
        return picture, caption

    def opinions(self, answers: Mapping[tuple[str, Cell], Answer]) -> Opinions:
        """What people say of cells, in the order in which cells were first spoken of.

        "Same picture" says that each caption of both pictures is true of both; what the person says of such a cell
        itself counts more.

        Args:
            answers: those that count.
        """
        found: Opinions = {}
        for (person, cell), answer in answers.items():
            found.setdefault(cell, {})[person] = answer.match
        for (person, (picture, _)), answer in answers.items():
            other = None if answer.other_id is None else self._image_ids.find(answer.other_id)
            if answer.answer == "same_picture" and other is not None:
                for cell in self._crossed(picture, other):
                    found.setdefault(cell, {}).setdefault(person, True)
        return found

    def ids(self, cells: Iterable[Cell]) -> tuple[Integers, Integers, Integers]:
        """Every id of each cell's picture with every id of its caption.

        Returns:
            Image ids, caption ids, and the place of the cell in ``cells``, int64 [V] each.
        """
        rows = [
            (image, caption, place)
            for place, (picture, text) in enumerate(cells)
            for image in self.candidates.image_ids[picture].tolist()
            for caption in self.candidates.caption_ids[text].tolist()
        ]
        images, captions, places = np.array(rows, np.int64).reshape(-1, 3).T
        return np.ascontiguousarray(images), np.ascontiguousarray(captions), np.ascontiguousarray(places)

    def free(self, opinions: Opinions) -> NDArray[np.bool_]:
        """Which candidates nobody has spoken of [P]."""
        free = np.ones(len(self.candidates), np.bool_)
        for cell in opinions:
            number = self.number(cell)
            if number is not None:
                free[number] = False
        return free

    def _crossed(self, picture: int, other: int) -> list[Cell]:
        own, others = (self.candidates.own[number].tolist() for number in (picture, other))
        return [(picture, caption) for caption in others if caption not in own] + [
            (other, caption) for caption in own if caption not in others
        ]


class _Lookup:
    """The number of the list that an id is in; that of the first where it is in several."""

    def __init__(self, lists: Lists) -> None:
        order = np.argsort(lists.values, kind="stable")
        self._ids, self._numbers = lists.values[order], lists.owners[order]

    def find(self, number: int) -> int | None:
        """The number of the list of an id; None for an id that no list has."""
        place = int(np.searchsorted(self._ids, number))
        return int(self._numbers[place]) if place < len(self._ids) and self._ids[place] == number else None
