"""Review: a person says of suspected pairs whether the caption is true of the picture."""
