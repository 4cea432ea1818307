"""Models whose fusion encoder reads image and text together.

`albef` puts the model together: `config`, `text_encoder`, `fusion_encoder`, `heads`, and `rows`, which spares work for
rows that share an image or a length. `vqa` (with `answer_decoder` and `answers`), `nlvr2` and `captioning` (with
`beams`) are models of tasks on the ground of `downstream`. `gallery` compares and reads any pairs of a set of images
and captions.
"""
