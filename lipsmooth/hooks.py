"""Forward hooks: what is known of a layer by its kind holds only without them."""

from torch import nn
from torch.nn.utils import parametrize


def has_hooks(module: nn.Module) -> bool:
    """Say whether a module, apart from its parts, has forward hooks of either kind."""
    return bool(module._forward_hooks or module._forward_pre_hooks)


def reject_hooks(module: nn.Module) -> None:
    """Raise ValueError if a module has hooks, which may change what it computes."""
    if has_hooks(module):
        kind = parametrize.type_before_parametrizations(module)
        raise ValueError(
            f"{kind.__name__} has hooks, which may change what it computes"
        )
