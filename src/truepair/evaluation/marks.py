"""The words for what is known of a pair; light to import, so that a page can use them without a model."""

from typing import Literal

Mark = Literal["own", "true", "near", "wrong"]
"""How an answer relates to its query: own pair, true match that is not own, near-match (same family), or neither."""

Verdict = Literal["true", "near", "false", "unknown"]
"""What the known truth says of an undeclared pair: match, near-match (same family), neither, or nothing."""
