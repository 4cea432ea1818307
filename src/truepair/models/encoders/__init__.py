"""Encoders of one kind of input.

`images` builds and loads image encoders by name: a `vision_tower` of transformers, `efficientnet` or `conv_stem`; all
are an `ImageEncoder` of `base`. `minilm` is a small text encoder. `frozen_images` and `frozen_captions` compute what a
frozen encoder makes of a data set once, and keep it in the store of `frozen` under the encoder's `fingerprint`.
"""
