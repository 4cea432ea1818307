"""truepair: vision-language training that does not punish the matches hiding among the negatives.

Import what you need from its rooms: ``truepair.relations``, ``truepair.objectives``, ``truepair.sampling``,
``truepair.data``, ``truepair.models``, ``truepair.evaluation``. The first three need nothing but torch, numpy and
pyarrow.
"""

__version__ = "0.1.0"
