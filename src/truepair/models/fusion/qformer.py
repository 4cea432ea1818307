"""The Q-Former of BLIP-2: layers of transformers, run so that what rows share is computed once.

A layer of `Blip2QFormerModel` takes one row of queries and words with the states of its image. Here the keys and values
of an image are made once for all rows that read it; the pass of the queries alone, which ITC compares and which the
words of ITG look back at, is one; and queries are the same in all rows before a word or an image reaches them. Results
and gradients are those of transformers' layers, see `tests/models/fusion/test_qformer.py`. Where dropout draws, rows
share the draw of what they share.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from truepair.devices import sent
from truepair.models.dual.base import ImageKeysValues
from truepair.models.fusion.rows import RowGroups, apply_by_length, attention


def image_keys_values(qformer: Any, image_states: Tensor) -> ImageKeysValues:
    """Keys and values of I images [I, N, W] for each layer that looks at them, [I, N, D] each."""
    states = image_states.to(qformer.layernorm.weight.dtype)
    blocks = [layer.crossattention.attention for layer in qformer.encoder.layer if layer.has_cross_attention]
    return ImageKeysValues(tuple(block.key(states) for block in blocks), tuple(block.value(states) for block in blocks))


def read_images(qformer: Any, queries: Tensor, keys_values: ImageKeysValues) -> tuple[Tensor, ImageKeysValues]:
    """The pass of the queries alone.

    Args:
        qformer: The model of transformers.
        queries: Learned queries [1, Q, D].
        keys_values: From :func:`image_keys_values`, of I images.

    Returns:
        States of the queries [I, Q, D], and the keys and values with those of the queries beside them.
    """
    states, images = _embedded(qformer, queries), _Images(qformer, keys_values)  # [1, Q, D]
    keys, values = [], []
    for layer in qformer.encoder.layer:
        block = layer.attention.attention
        keys.append(block.key(states).expand(keys_values.images, -1, -1))
        values.append(block.value(states).expand(keys_values.images, -1, -1))

        def read(states: Tensor, own_keys: Tensor, own_values: Tensor, *image: Tensor, layer: Any = layer) -> Tensor:
            """The layer; the first one reads the queries of all images at once, as long as they are the same."""
            alike = len(states)
            states = _attended(layer.attention, states, own_keys[:alike], own_values[:alike])
            states = states.expand(keys_values.images, -1, -1)
            if image:
                states = _attended(layer.crossattention, states, *image)
            out: Tensor = layer.feed_forward_chunk_query(states)
            return out

        states = _run(layer, read, states, keys[-1], values[-1], *images.of(layer))
    return states, keys_values._replace(query_keys=tuple(keys), query_values=tuple(values))


def read_pairs(
    qformer: Any, queries: Tensor, words: Tensor, attention_mask: Tensor, keys_values: ImageKeysValues, rows: Tensor
) -> Tensor:
    """The pass of queries and words that see each other; of the last layer, what the queries make of it alone.

    Args:
        qformer: The model of transformers.
        queries: Learned queries [1, Q, D].
        words: Embeddings of the words of each row [R, L, D].
        attention_mask: 1 for tokens, then 0 for padding, [R, L].
        keys_values: Of I images.
        rows: The image of each row [R].

    Returns:
        States of the queries [R, Q, D].
    """
    first = _embedded(qformer, queries)  # [1, Q, D]

    def read(some: Tensor | slice, words: Tensor, mask: Tensor) -> Tensor:
        """All layers over some rows."""
        groups = RowGroups.of(rows[some], keys_values.images, words.device)
        shown = torch.cat([mask.new_ones(len(mask), first.shape[1]), mask], dim=1).bool()[:, None, None]
        states, words, images = first, _embedded(qformer, words), _Images(qformer, keys_values)
        for layer in qformer.encoder.layer[:-1]:
            states, words = _run(layer, _pair_layer(layer, shown, groups), states, words, *images.of(layer))
        last = qformer.encoder.layer[-1]
        out: tuple[Tensor] = _run(last, _pair_layer(last, shown, groups, last=True), states, words, *images.of(last))
        return out[0]

    return apply_by_length(words, attention_mask, read, cls_only=True)


def read_captions(
    qformer: Any, words: Tensor, attention_mask: Tensor, keys_values: ImageKeysValues, rows: Tensor
) -> Tensor:
    """The pass of words that see the queries of their image and the words before them: BLIP-2's causal mask.

    Args:
        qformer: The model of transformers.
        words: Embeddings of the words of each row [R, L, D].
        attention_mask: 1 for tokens, then 0 for padding, [R, L].
        keys_values: Of I images, with those of the queries.
        rows: The image of each row [R].

    Returns:
        States of the words [R, L, D].
    """
    count, rows = keys_values.query_keys[0].shape[1], sent(rows, words.device)

    def read(some: Tensor | slice, words: Tensor, mask: Tensor) -> Tensor:
        """All layers over some rows."""
        seen, states = caption_mask(mask, count)[:, None], _embedded(qformer, words)
        for number, layer in enumerate(qformer.encoder.layer):

            def read_layer(states: Tensor, keys: Tensor, values: Tensor, layer: Any = layer) -> Tensor:
                """The layer, with the queries' keys and values before the words'."""
                block = layer.attention.attention
                keys = torch.cat([keys[rows[some]], block.key(states)], dim=1)
                values = torch.cat([values[rows[some]], block.value(states)], dim=1)
                out: Tensor = layer.feed_forward_chunk(_attended(layer.attention, states, keys, values, mask=seen))
                return out

            prefix = keys_values.query_keys[number], keys_values.query_values[number]
            states = _run(layer, read_layer, states, *prefix)
        return states

    return apply_by_length(words, attention_mask, read)


def caption_mask(attention_mask: Tensor, queries: int) -> Tensor:
    """Where the words may look in BLIP-2's multimodal causal mask: at all queries, themselves and the words before.

    Queries, which stand before the words, look at queries alone.

    Args:
        attention_mask: 1 for tokens, then 0 for padding, [R, L].
        queries: Q.

    Returns:
        bool [R, L, Q + L].
    """
    rows, length = attention_mask.shape
    before = torch.ones(length, length, dtype=torch.bool, device=attention_mask.device).tril()
    words = before & attention_mask.bool()[:, None]  # [R, L, L]
    return torch.cat([words.new_ones(rows, length, queries), words], dim=2)


class _Images:
    """Keys and values of the images, layer by layer.

    Args:
        qformer: The model of transformers.
        keys_values: As many of each as layers look at images.
    """

    def __init__(self, qformer: Any, keys_values: ImageKeysValues) -> None:
        looking: list[int] = [layer.layer_idx for layer in qformer.encoder.layer if layer.has_cross_attention]
        self._of_layer = dict(zip(looking, zip(keys_values.keys, keys_values.values, strict=True), strict=True))

    def of(self, layer: Any) -> tuple[Tensor, ...]:
        """Keys and values for a layer, [I, N, D] each; none where it does not look at images."""
        number: int = layer.layer_idx
        return self._of_layer.get(number, ())


def _pair_layer(
    layer: Any, shown: Tensor, groups: RowGroups, *, last: bool = False
) -> Callable[..., tuple[Tensor, ...]]:
    """A layer of queries [R or 1, Q, D] and words [R, L, D] as a function of both; the last returns queries alone."""

    def read(queries: Tensor, words: Tensor, *image: Tensor) -> tuple[Tensor, ...]:
        """The layer."""
        block, rows, count = layer.attention.attention, len(words), queries.shape[1]

        def both(linear: Callable[[Tensor], Tensor]) -> Tensor:
            """What a linear layer makes of queries and words."""
            return torch.cat([linear(queries).expand(rows, -1, -1), linear(words)], dim=1)  # [R, Q + L, D]

        asking = block.query(queries).expand(rows, -1, -1) if last else both(block.query)
        context = _context(block, asking, both(block.key), both(block.value), mask=shown)
        states: Tensor = layer.attention.output(context[:, :count], queries)  # [R, Q, D]
        if image:
            states = _attended(layer.crossattention, states, *image, groups=groups)
        out: Tensor = layer.feed_forward_chunk_query(states)
        if last:
            return (out,)
        others: Tensor = layer.feed_forward_chunk(layer.attention.output(context[:, count:], words))
        return out, others

    return read


def _attended(block: Any, states: Tensor, keys: Tensor, values: Tensor, **options: Any) -> Tensor:
    """A `Blip2QFormerAttention` whose keys and values are there already: states [R, L, D] to new ones."""
    context = _context(block.attention, block.attention.query(states), keys, values, **options)
    attended: Tensor = block.output(context, states)
    return attended


def _context(block: Any, queries: Tensor, keys: Tensor, values: Tensor, **options: Any) -> Tensor:
    """What a `Blip2QFormerMultiHeadAttention` reads [R, L, D]; options are those of :func:`attention`."""
    dropout = block.attention_dropout if block.training else 0.0
    return attention(queries, keys, values, block.num_attention_heads, dropout=dropout, **options)


def _embedded(qformer: Any, states: Tensor) -> Tensor:
    """What the first layer reads of queries or embedded words [R, L, D]."""
    embedded: Tensor = qformer.dropout(qformer.layernorm(states.to(qformer.layernorm.weight.dtype)))
    return embedded


def _run(layer: Any, function: Callable[..., Any], *inputs: Tensor) -> Any:
    """Call a function of a layer; with gradient checkpointing the backward pass calls it again."""
    if layer.gradient_checkpointing and layer.training and torch.is_grad_enabled():
        return checkpoint(function, *inputs, use_reentrant=False)
    return function(*inputs)
