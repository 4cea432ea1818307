"""Checkpoints of ours and of others.

`load` opens models from folders and hub names, `bert` starts ALBEF's text and fusion layers, and `official` reads and
writes the parameter names of the published ALBEF.
"""
