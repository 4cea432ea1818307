"""Feed-forward blocks that keep one of their two wide tensors for the backward pass."""

from torch import Tensor, nn

from truepair.models.remade import remade

_PARTS = {"fc1", "fc2", "activation_fn"}


class LeanMlp(nn.Module):
    """Linear, activation, linear, as in the vision models of transformers; names of weights stay.

    What the activation makes is as wide as what it reads, and both are kept as a rule: a third of a ViT's activations.
    Here it is made again in the backward pass, which costs one activation; no product of matrices is repeated.

    Args:
        mlp: The block to stand in for, with ``fc1``, ``activation_fn`` and ``fc2``.
    """

    def __init__(self, mlp: nn.Module) -> None:
        super().__init__()
        parts = dict(mlp.named_children())
        self.fc1, self.activation_fn, self.fc2 = parts["fc1"], parts["activation_fn"], parts["fc2"]

    def forward(self, states: Tensor, norm: nn.Module | None = None) -> Tensor:
        """States [..., D] to states [..., D].

        Args:
            states: What is read.
            norm: Applied to it first, and again in the backward pass.
        """
        wide = self.fc1(states) if norm is None else remade(lambda inputs: self.fc1(norm(inputs)), states)
        return remade(self._contracted, wide)

    def _contracted(self, wide: Tensor) -> Tensor:
        out: Tensor = self.fc2(self.activation_fn(wide))
        return out


def make_lean(model: nn.Module) -> int:
    """Replace the feed-forward blocks of a vision model that are made of nothing else; returns how many there are."""
    found = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if {part for part, _ in child.named_children()} == _PARTS
    ]
    for parent, name, child in found:
        setattr(parent, name, LeanMlp(child))
    return len(found)
