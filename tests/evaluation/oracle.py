"""Retrieval figures computed the slow, obvious way: sort every row in Python, and walk down the list."""

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
    """All four tables of a score matrix (list of rows) and three sets of (image, caption) pairs."""
    images, captions = len(matrix), len(matrix[0])
    columns = [[matrix[i][c] for i in range(images)] for c in range(captions)]
    true = set(true) | set(own)
    by_image = [{c for i, c in true if i == image} for image in range(images)]
    by_caption = [{i for i, c in true if c == caption} for caption in range(captions)]
    ignored_by_image = [{c for i, c in ignored if i == image} for image in range(images)]
    ignored_by_caption = [{i for i, c in ignored if c == caption} for caption in range(captions)]
    own_by_image = [{c for i, c in own if i == image} for image in range(images)]
    naive_queries = sorted((c, i) for i, c in own)
    naive_t2i = direction([columns[c] for c, _ in naive_queries], [{i} for _, i in naive_queries], [set()] * len(own))
    naive_t2i["left_out"] = captions - len({c for c, _ in naive_queries})
    return {
        "i2t": direction(matrix, by_image, ignored_by_image),
        "t2i": direction(columns, by_caption, ignored_by_caption),
        "naive_i2t": direction(matrix, own_by_image, [set()] * images),
        "naive_t2i": naive_t2i,
    }
