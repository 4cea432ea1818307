"""Checkpoints of ours and of others.

`load` opens models from folders and hub names, and `bert` starts ALBEF's text and fusion layers. `convert` opens the
files of other programs: `tensors` reads them safely, `layouts` tells whose they are, and `official`, `blip` and
`open_clip` know the names of the published ALBEF (GRIT-VLP, MAFA), BLIP and open_clip. `onnx` exports.
"""
