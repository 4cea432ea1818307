"""A whole data set mined: candidates, graph, refinement."""
