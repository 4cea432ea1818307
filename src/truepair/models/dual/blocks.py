"""Where the blocks of a tower are, and what stands before and behind them: for layer-wise rates, freezing and LoRA."""

from collections.abc import Iterator

from torch import nn

# Parameters of a tower itself that make its output, although they are defined before its blocks (open_clip).
_OUTPUTS = ("proj", "text_projection")


class TowerBlocks:
    """The blocks of a tower, and the embeddings before them.

    The blocks are the longest list of modules that no other list holds: the layers of a transformer, the stages of a
    Swin or a ConvNeXt. A plain sequence counts if all its modules attend. What is defined before the blocks makes their
    input, as every tower of transformers, open_clip and timm has it; all else reads their output.

    Args:
        tower: Image tower or text tower.
    """

    def __init__(self, tower: nn.Module) -> None:
        lists = [list(found) for found in _outermost_lists(tower)]
        self.blocks: list[nn.Module] = max(lists, key=len, default=[])
        self._entrance = list(self._before_blocks(tower)) if self.blocks else []

    def __len__(self) -> int:
        return len(self.blocks)

    def first_modules(self, count: int) -> list[nn.Module]:
        """The modules of the embeddings and of the first blocks."""
        modules = [part for part in self._entrance if isinstance(part, nn.Module)]
        return [*modules, *self.blocks[:count]]

    def first_parameters(self, count: int) -> list[nn.Parameter]:
        """The parameters of the embeddings and of the first blocks."""
        own = [part for part in self._entrance if isinstance(part, nn.Parameter)]
        return [*own, *(weight for module in self.first_modules(count) for weight in module.parameters())]

    def layers_above(self) -> dict[nn.Parameter, int]:
        """How many layers stand above each parameter: 1 for the last block, n + 1 for the embeddings before n blocks.

        Those of what stands behind the blocks are left out.
        """
        count = len(self.blocks)
        above = dict.fromkeys(self.first_parameters(0), count + 1)
        for number, block in enumerate(self.blocks):
            above |= dict.fromkeys(block.parameters(), count - number)
        return above

    def _before_blocks(self, module: nn.Module) -> Iterator[nn.Module | nn.Parameter]:
        """What is defined before the blocks: whole modules, and parameters of those that hold the blocks."""
        yield from (weight for name, weight in module.named_parameters(recurse=False) if name not in _OUTPUTS)
        for child in module.children():
            if child is self.blocks[0]:
                return
            if any(part is self.blocks[0] for part in child.modules()):
                yield from self._before_blocks(child)
                return
            yield child


def _outermost_lists(module: nn.Module) -> Iterator[nn.ModuleList | nn.Sequential]:
    """Lists of blocks that are not part of another one; in a sequence of other things there are none."""
    for child in module.children():
        if isinstance(child, nn.ModuleList) or (isinstance(child, nn.Sequential) and _attends(child)):
            yield child
        elif not isinstance(child, nn.Sequential):
            yield from _outermost_lists(child)


def _attends(sequence: nn.Sequential) -> bool:
    """Whether each module of a sequence holds an attention layer."""
    kinds = ([type(part).__name__.lower() for part in module.modules()] for module in sequence)
    return len(sequence) > 0 and all(any("attention" in kind for kind in names) for names in kinds)
