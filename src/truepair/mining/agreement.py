"""Second-order evidence: two pairs show the same the more likely, the more their likely partners agree."""

import torch
from torch import Tensor

from truepair.mining.pair_graph import PairGraph

FLOOR = -9.0  # log-odds of a pair that is no candidate
_KNOWN = 8.0  # log-odds of a declared pair
_MOST_FRIENDS = 50.0  # more common partners than this tell nothing new
_DOUBT = 0.5  # of a partner, so that rows without any have an average


def with_known(graph: PairGraph) -> PairGraph:
    """The graph with declared pairs as good as certain."""
    return graph.scored(torch.where(graph.known, _KNOWN, graph.log_odds))


def agreement_of(graph: PairGraph) -> Tensor:
    """Evidence on each edge (i, j) from the edges around it, the same in both directions, float32 [E, 5].

    With p the probability of an edge, a partner of i being any k with an edge (i, k), the columns are:

    * the log-odds of the edge itself;
    * common partners: log (1 + sum_k p_ik p_kj);
    * average link: how sure, on average, j is about the other partners of i, and i about those of j;
    * common partners among all other partners of either (Jaccard);
    * how many partners both have: crowded places hold more false ones.
    """
    chance = graph.log_odds.sigmoid()  # [E]
    partners = graph.row_sums(chance)  # [N]
    others = partners[graph.rows] - chance  # [E] partners of i without j
    common = graph.over_neighbours(chance, chance)
    link = graph.over_neighbours(chance, graph.log_odds - FLOOR) / (others + _DOUBT)
    either = others + others[graph.reverse] - common + _DOUBT
    crowd = partners.log1p()
    columns = [
        graph.log_odds.masked_fill(graph.known, 0.0),
        common.clamp(max=_MOST_FRIENDS).log1p(),
        (link + link[graph.reverse]) / 2,
        common / either,
        crowd[graph.rows] + crowd[graph.columns],
    ]
    return torch.stack(columns, dim=1)
