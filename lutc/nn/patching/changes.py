"""Records of what stood in a model before a patch changed it; each undoes its change."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

from torch import nn

from lutc.nn.patching import attention as attentions

ATTENTION = "_attn_implementation_internal"  # of a transformers config
RECORD = "_lutc_patches"  # of a patched model: the changes of each patch
MISSING = "lutc: nothing stood here"  # compared by ==, so that it survives copying and pickling


@dataclass
class Child:
    """A child module put in another's place, or added (`before` is None). shared: names of parameters
    that both hold.
    """

    parent: nn.Module
    name: str
    before: nn.Module | None
    shared: tuple[str, ...] = ()

    def undo(self) -> None:
        after = self.parent._modules[self.name]
        if self.before is None:
            del self.parent._modules[self.name]
            return
        # What the model went through while it was patched: training mode, and parameters that a conversion may have
        # renewed.
        for name in self.shared:
            self.before._parameters[name] = after._parameters[name]
        self.before.train(after.training)
        self.parent._modules[self.name] = self.before


@dataclass
class Attribute:
    """An entry of an object's __dict__ (of a module or a config) set to another value, or taken out."""

    owner: object
    name: str
    before: object

    def __setstate__(self, state: dict) -> None:
        """A patched model that is loaded in another process finds its attention in transformers' registry."""
        self.__dict__.update(state)
        if self.name == ATTENTION:
            attentions.register()

    def undo(self) -> None:
        if isinstance(self.before, str) and self.before == MISSING:
            self.owner.__dict__.pop(self.name, None)
        else:
            self.owner.__dict__[self.name] = self.before


class SavedWithoutTables:
    """`save_pretrained` of a patched model: it writes weights and config, from which nobody can tell that it had
    tables, and says so. Copies and pickles along with the model.
    """

    def __init__(self, model: nn.Module):
        self.model = model

    def __call__(self, *args, **kwargs) -> Any:
        warnings.warn(
            "save_pretrained writes a model's weights; the tables are not in the folder, and from_pretrained gives the "
            "exact model: patch it again there, or keep the whole model by torch.save",
            stacklevel=2,
        )
        return type(self.model).save_pretrained(self.model, *args, **kwargs)
