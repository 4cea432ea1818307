"""What the stages of mining a table cost, and what they cost in the shapes that they had before. Prints JSON lines.

    python benchmarks/mining.py --rows 12000
    python benchmarks/mining.py --rows 30000 --turns 1 --stages search edges agreement refinement

Made-up features of EfficientNet-Lite0's and MiniLM's widths, in groups of 20 rows. For each stage: seconds of CPU time
of both shapes, which take turns in one process, and their ratio; bytes a row at the peak of each, results included,
beyond what was there before (Linux alone); and the greatest difference of their results.

* `projection`: features to the spaces that are compared; before, all rows at once.
* `exact`: the candidates out of all pairs; before, each cosine four times, for each direction from both ends of a pair.
* `edges`: proposed pairs, one by one; before, each end gathered twice, 65,536 pairs at a time.
* `search`: which pairs are proposed; before, 16 cells of an inverted file whatever the number of rows. Recall of both.
* `agreement`: what partners say; before, two products of sparse matrices.
* `refinement`: three rounds of it; before, the inputs of all edges at once.

Measured with --rows 8000 --turns 1, one thread of a machine that was busy with other things:

| stage | seconds, before and now | ratio | bytes a row at the peak | greatest difference |
|---|---|---|---|---|
| projection | 0.20, 0.19 | 1.0 | 14,408 and 5,898 | 0 |
| exact | 11.92, 2.86 | 4.2 | 20,112 and 12,243 | 1e-6 |
| search | 0.45, 0.82 (recall .896 and 1) | 0.55 | 2,997 and 6,745 | |
| edges | 5.11, 0.75 | 6.8 | 94,108 and 35,003 | 1e-6 |
| agreement | 2.11, 0.42 | 5.0 | 62,177 and 7,769 | 0 |
| refinement | 7.08, 1.86 | 3.8 | 70,390 and 15,119 | 0 |

What is held in blocks (of edges, of sparse products, of tiles) does not grow with the rows, and weighs less on more.
"""

import argparse
import ctypes
import gc
import itertools
import json
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import faiss
import torch
import torch.nn.functional as F
from torch import Tensor

from truepair.judges.evidence import (
    TERMS,
    EvidenceModel,
    EvidenceSpaces,
    EvidenceTables,
    evidence_of,
    terms_of,
    with_products,
)
from truepair.mining.graph import FLOOR, Declared, PairGraph, agreement_of, exact_graph, searched_graph, with_known
from truepair.mining.neighbours import nearest
from truepair.mining.refinement import Refinement

_LIBC = ctypes.CDLL(None)
_MMAP_THRESHOLD = -3  # of glibc's mallopt

NEIGHBOURS = 64
GROUP = 20  # rows that show the same
BLOCK = 256  # rows of a grid


def features(rows: int, generator: torch.Generator) -> EvidenceTables:
    """Features in groups, of the widths of EfficientNet-Lite0 and MiniLM."""
    group = torch.arange(rows) // GROUP
    parts = []
    for width in (1280, 384):
        looks = torch.randn(int(group[-1]) + 1, 24, generator=generator) @ torch.randn(24, width, generator=generator)
        parts.append(F.normalize(looks[group] / 5 + torch.randn(rows, width, generator=generator), dim=1))
    return EvidenceTables(*parts, "made up")


def model_of(tables: EvidenceTables, generator: torch.Generator) -> EvidenceModel:
    """A model of random weights, in the widths of one that was fitted."""

    def random(*shape: int) -> Tensor:
        """Small numbers."""
        return torch.randn(shape, generator=generator) / shape[-1]

    spaces = EvidenceSpaces(
        tables.images.mean(dim=0), random(1280, 256), tables.texts.mean(dim=0), random(384, 128), random(1280, 384)
    )
    terms = terms_of(tables)
    inputs = len(terms) * (len(terms) + 3) // 2
    weights = random(inputs + 1) + torch.cat([torch.full((len(terms),), 2.0), torch.zeros(inputs + 1 - len(terms))])
    weights[-1] = -6.0
    return EvidenceModel(spaces, terms, torch.zeros(inputs), torch.ones(inputs), weights, "made up")


def projection_before(spaces: EvidenceSpaces, tables: EvidenceTables) -> dict[str, Tensor]:
    """All rows at once."""
    images, texts = tables.images - spaces.image_mean, tables.texts - spaces.text_mean
    found = {
        "image": images @ spaces.image_metric,
        "text": texts @ spaces.text_metric,
        "caption": texts,
        "predicted": images @ spaces.cross_map,
    }
    return {name: F.normalize(features, dim=1) for name, features in found.items()}


def grid_before(model: EvidenceModel, spaces: dict[str, Tensor], rows: Tensor, columns: Tensor) -> Tensor:
    """Both directions, each with its cosines."""

    def direction(rows: Tensor, columns: Tensor) -> Tensor:
        """Images of rows and captions of columns [R, M]."""
        slopes = model.weights[:-1] / model.spread
        count = len(model.terms)
        products = dict(zip(itertools.combinations_with_replacement(range(count), 2), slopes[count:], strict=True))
        grids = [spaces[one][rows] @ spaces[other][columns].T for one, other in (TERMS[term] for term in model.terms)]
        total = (model.weights[-1] - slopes @ model.centre).expand_as(grids[0]).clone()
        for one, grid in enumerate(grids):
            factor = slopes[one].expand_as(grid).clone()
            for other in range(one, count):
                factor.addcmul_(products[one, other], grids[other])
            total.addcmul_(grid, factor)
        return total

    return (direction(rows, columns) + direction(columns, rows).T) / 2


def edges_before(model: EvidenceModel, spaces: dict[str, Tensor], rows: Tensor, columns: Tensor) -> Tensor:
    """Both directions gathered, 65,536 pairs at a time."""

    def direction(left: Tensor, right: Tensor) -> Tensor:
        """Log-odds of images of pairs and captions of others [P]."""
        inputs = (with_products(evidence_of(spaces, model.terms, left, right)) - model.centre) / model.spread
        return inputs @ model.weights[:-1] + model.weights[-1]

    parts = zip(rows.split(65_536), columns.split(65_536), strict=True)
    return torch.cat([(direction(one, other) + direction(other, one)) / 2 for one, other in parts])


def exact_before(model: EvidenceModel, spaces: dict[str, Tensor], declared: Declared) -> Tensor:
    """The best candidates of each row out of all, 256 rows at a time: the strongest of each row [N]."""
    every = torch.arange(len(declared))
    parts = []
    for rows in every.split(BLOCK):
        scores = grid_before(model, spaces, rows, every).clone()
        known = declared.known(rows[:, None], every)
        ranking = scores.masked_fill(known, torch.inf)
        ranking[torch.arange(len(rows)), rows] = -torch.inf
        best = ranking.topk(NEIGHBOURS, dim=1).indices
        of_row = rows[:, None].expand_as(best).flatten()
        parts.append((of_row, best.flatten(), scores.gather(1, best).flatten(), known.gather(1, best).flatten()))
    rows, columns, scores, known = (torch.cat(column) for column in zip(*parts, strict=True))
    return strongest_of(PairGraph.of_proposals(len(declared), rows, columns, scores, known))


def strongest_of(graph: PairGraph) -> Tensor:
    """The highest log-odds of each row [N]."""
    return torch.full((graph.size,), -torch.inf).scatter_reduce(0, graph.rows, graph.log_odds, "amax")


def search_before(vectors: Tensor, count: int) -> Tensor:
    """Nearest by 16 cells of an inverted file [N, count]."""
    cells = round(len(vectors) ** 0.5)
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(vectors.shape[1]), vectors.shape[1], cells, faiss.METRIC_INNER_PRODUCT)
    index.cp.min_points_per_centroid = 1
    index.train(vectors.numpy())
    index.add(vectors.numpy())
    index.nprobe = min(16, cells)
    return torch.from_numpy(index.search(vectors.numpy(), count)[1])


def over_neighbours_before(graph: PairGraph, left: Tensor, right: Tensor) -> Tensor:
    """Sums over neighbours out of a product of sparse matrices [E]."""

    def matrix(start: int, stop: int, values: Tensor) -> Tensor:
        """Some rows of the matrix of edge values."""
        first, last = torch.searchsorted(graph.rows, torch.tensor([start, stop])).tolist()
        cells = torch.stack([graph.rows[first:last] - start, graph.columns[first:last]])
        return torch.sparse_coo_tensor(cells, values[first:last], (stop - start, graph.size), is_coalesced=True)

    whole, parts = matrix(0, graph.size, right), []
    for start in range(0, graph.size, 4096):
        stop = min(start + 4096, graph.size)
        product = torch.sparse.mm(matrix(start, stop, left), whole).coalesce()
        rows, columns = product.indices()
        keys = torch.cat([(rows + start) * graph.size + columns, torch.tensor([graph.size**2])])
        first, last = torch.searchsorted(graph.rows, torch.tensor([start, stop])).tolist()
        asked = graph.rows[first:last] * graph.size + graph.columns[first:last]
        place = torch.searchsorted(keys, asked)
        values = torch.cat([product.values(), torch.zeros(1)])
        parts.append(torch.where(keys[place] == asked, values[place], 0.0))
    return torch.cat(parts)


def agreement_before(graph: PairGraph) -> Tensor:
    """Evidence on edges by two products [E, 5]."""
    chance = graph.log_odds.sigmoid()
    partners = graph.row_sums(chance)
    others = partners[graph.rows] - chance
    common = over_neighbours_before(graph, chance, chance)
    link = over_neighbours_before(graph, chance, graph.log_odds - FLOOR) / (others + 0.5)
    either = others + others[graph.reverse] - common + 0.5
    crowd = partners.log1p()
    columns = [
        graph.log_odds.masked_fill(graph.known, 0.0),
        common.clamp(max=50.0).log1p(),
        (link + link[graph.reverse]) / 2,
        common / either,
        crowd[graph.rows] + crowd[graph.columns],
    ]
    return torch.stack(columns, dim=1)


def refined_before(refinement: Refinement, graph: PairGraph) -> PairGraph:
    """Three rounds, the inputs of all edges at once."""
    for number in range(len(refinement.weights)):
        graph = with_known(graph).strongest(refinement.neighbours, FLOOR)
        inputs = (with_products(agreement_before(graph)) - refinement.centre[number]) / refinement.spread[number]
        graph = graph.scored(inputs @ refinement.weights[number, :-1] + refinement.weights[number, -1])
    return graph


def memory(field: str) -> int:
    """A figure of this process, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise ValueError(f"no {field}")


def costs(work: Callable[[], Tensor]) -> tuple[Tensor, float, int]:
    """A result, seconds of CPU time, and bytes at the peak beyond what was there before."""
    gc.collect()
    _LIBC.malloc_trim(0)  # what was freed is given back, so that it counts when it is taken again
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted anew
    there, start = memory("VmRSS"), time.process_time()
    found = work()
    return found, time.process_time() - start, memory("VmHWM") - there


@dataclass(frozen=True)
class Comparison:
    """Lets both shapes of a stage take turns, and prints the least of their costs.

    Attributes:
        rows: of the table.
        turns: of both shapes.
        stages: those that are wanted; none for all.
    """

    rows: int
    turns: int
    stages: list[str]

    def __call__(self, stage: str, before: Callable[[], Tensor], after: Callable[[], Tensor], **more: object) -> None:
        """Compare a stage."""
        if self.stages and stage not in self.stages:
            return
        seconds: list[tuple[float, float]] = []
        peaks: list[tuple[int, int]] = []
        for _ in range(self.turns):
            old, old_seconds, old_peak = costs(before)
            new, new_seconds, new_peak = costs(after)
            difference = float((old - new).abs().max()) if old.is_floating_point() else None
            seconds.append((old_seconds, new_seconds))
            peaks.append((old_peak, new_peak))
            del old, new
        one, other = (min(side) for side in zip(*seconds, strict=True))
        line: dict[str, object] = {"stage": stage, "rows": self.rows, "seconds": [round(one, 3), round(other, 3)]}
        line["ratio"] = round(one / other, 2)
        line["bytes_a_row"] = [round(min(side) / self.rows) for side in zip(*peaks, strict=True)]
        line |= {} if difference is None else {"difference": float(f"{difference:.1g}")}
        print(json.dumps({**line, **more}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=12_000)
    parser.add_argument("--turns", type=int, default=2, help="of both shapes")
    parser.add_argument("--stages", nargs="*", default=[], help="those wanted; none for all")
    args = parser.parse_args()
    warnings.filterwarnings("ignore", message="Sparse (CSR tensor|invariant checks)")
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    _LIBC.mallopt(_MMAP_THRESHOLD, 4 << 20)  # larger tensors go back to the system when they are freed
    generator = torch.Generator().manual_seed(0)
    tables = features(args.rows, generator)
    model = model_of(tables, generator)
    compare = Comparison(args.rows, args.turns, args.stages)
    compare(
        "projection",
        lambda: torch.cat([part[:BLOCK].flatten() for part in projection_before(model.spaces, tables).values()]),
        lambda: torch.cat([part[:BLOCK].flatten() for part in model.spaces.project(tables).values()]),
    )
    spaces = model.spaces.project(tables)
    every = torch.arange(args.rows)
    declared = Declared(every, every)
    compare(
        "exact",
        lambda: exact_before(model, spaces, declared),
        lambda: strongest_of(exact_graph(model, spaces, declared, NEIGHBOURS)),
    )
    vectors = torch.cat([spaces["image"], spaces["text"]], dim=1)
    right = nearest(vectors[:1000], vectors, NEIGHBOURS + 1, exact=args.rows).places
    shares = []
    if not args.stages or "search" in args.stages:
        for found in (
            search_before(vectors, NEIGHBOURS + 1),
            nearest(vectors, vectors, NEIGHBOURS + 1, exact=0).places,
        ):
            hits = sum(len(set(one) & set(other)) for one, other in zip(found.tolist(), right.tolist(), strict=False))
            shares.append(round(hits / right.numel(), 3))
    compare(
        "search",
        lambda: search_before(vectors, NEIGHBOURS + 1),
        lambda: nearest(vectors, vectors, NEIGHBOURS + 1, exact=0).places,
        recall=shares,
    )
    graph, _ = searched_graph(model, spaces, declared, NEIGHBOURS)
    first = graph.rows < graph.columns
    rows, columns = graph.rows[first], graph.columns[first]
    compare(
        "edges",
        lambda: edges_before(model, spaces, rows, columns),
        lambda: model.edge_log_odds(spaces, rows, columns),
    )
    kept = graph.strongest(NEIGHBOURS, FLOOR)
    kept.reverse  # noqa: B018 - made once, for both
    compare("agreement", lambda: agreement_before(kept), lambda: agreement_of(kept))
    evidence = with_products(agreement_of(kept))
    weights = torch.zeros(3, 21)
    weights[:, 0], weights[:, 20] = 2.0, -3.0
    centre, spread = evidence.mean(dim=0).repeat(3, 1), evidence.std(dim=0).repeat(3, 1)
    refinement = Refinement(centre, spread, weights, NEIGHBOURS, args.rows)
    del evidence
    compare(
        "refinement",
        lambda: refined_before(refinement, graph).log_odds,
        lambda: refinement.refine(graph).log_odds,
        edges=len(kept),
    )


if __name__ == "__main__":
    main()
