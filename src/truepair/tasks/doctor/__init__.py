"""What is wrong with the pairs of a source: the checks behind ``truepair doctor``."""
