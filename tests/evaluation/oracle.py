"""Retrieval figures computed the slow, obvious way: sort every row in Python, and walk down the list."""

import itertools
import statistics


def row_outcome(scores, right, ignored):
    """Best rank, AP@R and R-Precision of one query; among equal scores a wrong candidate comes first."""
    kept = [j for j in range(len(scores)) if j not in ignored]
    order = sorted(kept, key=lambda j: (-scores[j], j in right))
    depth = len(right)
    best = next(place for place, j in enumerate(order, start=1) if j in right)
    found, precision = 0, 0.0
    for place, j in enumerate(order[:depth], start=1):
        if j in right:
            found += 1
            precision += found / place
    return best, precision / depth, found / depth


def direction(rows, right, ignored):
    """Figures of one direction; rows without a right candidate are left out."""
    outcomes = [row_outcome(row, a, b) for row, a, b in zip(rows, right, ignored, strict=True) if a]
    ranks = [best for best, _, _ in outcomes]
    count = len(outcomes)
    return {
        "queries": count,
        "left_out": len(rows) - count,
        "recall_at_1": sum(r <= 1 for r in ranks) / count,
        "recall_at_5": sum(r <= 5 for r in ranks) / count,
        "recall_at_10": sum(r <= 10 for r in ranks) / count,
        "map_at_r": sum(ap for _, ap, _ in outcomes) / count,
        "r_precision": sum(rp for _, _, rp in outcomes) / count,
        "median_rank": statistics.median(ranks),
        "chance_recall_at_1": sum(
            len(a) / (len(row) - len(b)) for row, a, b in zip(rows, right, ignored, strict=True) if a
        )
        / count,
    }


def retrieval(matrix, own, true, ignored):
    """All four tables of a score matrix (list of rows) and lists of (image, caption) pairs; ``own`` may repeat them."""
    images, captions = len(matrix), len(matrix[0])
    columns = [[matrix[i][c] for i in range(images)] for c in range(captions)]
    true = set(true) | set(own)
    by_image = [{c for i, c in true if i == image} for image in range(images)]
    by_caption = [{i for i, c in true if c == caption} for caption in range(captions)]
    ignored_by_image = [{c for i, c in ignored if i == image} for image in range(images)]
    ignored_by_caption = [{i for i, c in ignored if c == caption} for caption in range(captions)]
    return {
        "i2t": direction(matrix, by_image, ignored_by_image),
        "t2i": direction(columns, by_caption, ignored_by_caption),
        "naive_i2t": naive_i2t(matrix, own),
        "naive_t2i": direction([columns[c] for _, c in own], [{i} for i, _ in own], [set()] * len(own)),
    }


def naive_i2t(matrix, own):
    """The usual protocol for images: every own caption is a candidate; of one text all orders are equally likely."""
    answers = [[place for place, (i, _) in enumerate(own) if i == image] for image in range(len(matrix))]
    rows = [[matrix[image][c] for _, c in own] for image in range(len(matrix))]
    table = direction(rows, [set(mine) for mine in answers], [set()] * len(rows))
    ranks = [expected_ranks(rows[i], [c for _, c in own], mine) for i, mine in enumerate(answers) if mine]
    for depth in (1, 5, 10):
        table[f"recall_at_{depth}"] = statistics.fmean(statistics.fmean(r <= depth for r in some) for some in ranks)
    table["median_rank"] = statistics.median(statistics.fmean(some) for some in ranks)
    return table


def expected_ranks(scores, texts, mine):
    """Rank of the best own caption in every order of the captions that have the text of one as good as it."""
    best = max(scores[place] for place in mine)
    mine_at_best = [place for place in mine if scores[place] == best]
    block = [
        place
        for place in range(len(scores))
        if scores[place] == best and texts[place] in {texts[own] for own in mine_at_best}
    ]
    ahead = sum(scores[j] >= best and j not in mine and j not in block for j in range(len(scores)))
    orders = itertools.combinations(range(len(block)), len(mine_at_best))  # the places that the own ones take
    return [ahead + 1 + taken[0] for taken in orders]
