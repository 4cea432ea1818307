"""What keeping known matches out of one batch costs where captions are popular. Prints one JSON line.

    python benchmarks/popular_captions.py
    python benchmarks/popular_captions.py --rows 1000000 --popular 5 --each 10000 --batch 256

Five rows a picture, in random order. In the rows `plain` every caption stands once; in `popular` some stand in so many
rows that not all of them can be parted. CPU seconds of `separate`, and how many rows still share a batch with a match;
`least` is how many must, since a caption has more rows than there are batches.
"""

import argparse
import json
import time

import numpy as np

from truepair.sampling.known import KnownMatches, separate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--popular", type=int, default=5, help="captions")
    parser.add_argument("--each", type=int, default=10_000, help="rows of each")
    parser.add_argument("--batch", type=int, default=256)
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    pictures, plain = np.arange(args.rows) // 5, np.arange(args.rows)
    popular = plain.copy()
    rows = args.popular * args.each
    popular[rng.permutation(args.rows)[:rows]] = args.rows + np.arange(rows) // args.each
    order = rng.permutation(args.rows)
    bounds = np.arange(args.rows // args.batch + 1) * args.batch
    least = args.popular * max(0, args.each - (len(bounds) - 1))
    found: dict[str, object] = vars(args) | {"least": least}
    for name, captions in (("plain", plain), ("popular", popular)):
        known = KnownMatches(np.stack([pictures, captions], axis=1))
        began = time.process_time()
        _, left = separate(order, bounds, known, np.random.default_rng(1))
        found[name] = {"seconds": round(time.process_time() - began, 2), "left": left}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
