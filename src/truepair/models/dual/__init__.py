"""Models with one feature per image and one per text: `base` has the protocols, `hub` any CLIP or SigLIP."""
