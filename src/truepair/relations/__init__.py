"""What we know about the pairs of a batch: who is a match although nobody declared it."""

from truepair.relations.identity import same_pair
from truepair.relations.pairs import PairSet

__all__ = ["PairSet", "same_pair"]
