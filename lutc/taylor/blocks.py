"""Finding the MLP blocks of a model, checking that they can be compiled, and swapping them in and out."""

from __future__ import annotations

import contextlib
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lutc.errors import LutcError
from lutc.models import modes

# Where transformers keep their MLPs, tried in this order when no pattern is given. BERT, DeiT and ViT split theirs over
# two modules.
DEFAULT_PATTERNS = ("**:intermediate+output.dense", "**.mlp", "**.feed_forward", "**.ffn", "**.classifier")

_RECURRENT = (nn.RNNBase, nn.RNNCellBase)


@dataclass(frozen=True)
class Block:
    """One function of one tensor inside a model: a module, or a chain of modules applied one after the other.

    `name` is a module's dotted name, or `parent:child+child` for a chain of modules below `parent`
    (`encoder.layer.0:intermediate+output.dense`). `modules` are the chain's modules and `paths` their dotted names.
    """

    name: str
    paths: tuple[str, ...]
    modules: tuple[nn.Module, ...]

    def __call__(self, x: Tensor) -> Tensor:
        for module in self.modules:
            x = module(x)
        return x

    @property
    def as_module(self) -> nn.Module:
        """The chain as one module; it shares the parameters of the model."""
        return self.modules[0] if len(self.modules) == 1 else nn.Sequential(*self.modules)


def find_blocks(model: nn.Module, patterns: str | Iterable[str] | None = None) -> list[Block]:
    """The blocks of `model` whose names match, in the model's order.

    `*` stands for one part of a dotted name and `**` for any number of parts; `parent:child+child` names a chain.
    Without patterns the usual places of a transformer's MLPs are tried. Raises LutcError where nothing matches.
    """
    if patterns is None:
        for pattern in DEFAULT_PATTERNS:
            if found := _match(model, pattern):
                return found
        usual = ", ".join(DEFAULT_PATTERNS)
        raise LutcError(
            f"no MLP found in {type(model).__name__} under the usual names ({usual}); give a pattern such as "
            "'layers.*.mlp'"
        )
    blocks: dict[str, Block] = {}
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        found = _match(model, pattern)
        if not found:
            names = [name for name, _ in model.named_modules() if name]
            known = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
            raise LutcError(f"no module of {type(model).__name__} matches {pattern!r}; its modules are {known}")
        blocks.update((block.name, block) for block in found)
    return list(blocks.values())


def _match(model: nn.Module, pattern: str) -> list[Block]:
    parent_pattern, _, chain = pattern.partition(":")
    children = chain.split("+") if chain else []
    regex = re.compile(_regex(parent_pattern))
    modules = dict(model.named_modules())
    found = []
    for name, module in modules.items():
        if not regex.fullmatch(name):
            continue
        paths = tuple(f"{name}.{child}" if name else child for child in children) or (name,)
        if all(path in modules for path in paths) and not isinstance(module, nn.ModuleList | nn.ModuleDict):
            found.append(Block(f"{name}:{chain}" if chain else name, paths, tuple(modules[path] for path in paths)))
    return found


def _regex(pattern: str) -> str:
    parts = re.split(r"(\*\*\.?|\*)", pattern)
    table = {"**.": r"(?:[^.]+\.)*", "**": r".*", "*": r"[^.]+"}
    return "".join(table.get(part, re.escape(part)) for part in parts)


def check_block(block: Block, rows: Tensor) -> Tensor:
    """Run `block` on rows [n, d] and return its output [n, d_out]; raise LutcError where it is not a function of one
    row.

    Refused: more than one tensor in or out, another width, output that depends on the other rows or on earlier calls,
    recurrent modules.
    """
    for module in block.as_module.modules():
        if isinstance(module, _RECURRENT):
            raise LutcError(
                f"{block.name} holds a {type(module).__name__}, which keeps a state; only functions of one tensor can "
                "be compiled"
            )
    with evaluation_mode(block), torch.no_grad():
        try:
            first = block(rows)
        except (TypeError, RuntimeError) as error:
            why = str(error).splitlines()[0]
            raise LutcError(
                f"{block.name} does not run on one tensor of shape {list(rows.shape)}: {why}; name a module of one "
                "tensor"
            ) from error
        if not isinstance(first, Tensor) or first.shape[:-1] != rows.shape[:-1]:
            what = f"shape {list(first.shape)}" if isinstance(first, Tensor) else type(first).__name__
            raise LutcError(
                f"{block.name} maps a tensor of shape {list(rows.shape)} to {what}; a block must map [..., d] to one "
                "tensor [..., d_out]"
            )
        second = block(rows)
        alone = torch.cat([block(row[None]) for row in rows[:4]])
    scale = first.abs().max().clamp_min(1e-6)
    if not torch.allclose(first, second, rtol=0, atol=1e-5 * float(scale), equal_nan=True):
        raise LutcError(
            f"{block.name} gives another result on the second call, so it keeps a state or draws random numbers; it "
            "cannot be compiled"
        )
    if not torch.allclose(first[:4], alone, rtol=0, atol=1e-3 * float(scale), equal_nan=True):
        raise LutcError(
            f"{block.name} mixes rows (attention or batch statistics); only functions of one row at a time can be "
            "compiled"
        )
    return first


@contextlib.contextmanager
def evaluation_mode(block: Block) -> Iterator[None]:
    """Run `block` in eval mode; warns where dropout or batch normalisation was in train mode."""
    trained = [module for module in block.as_module.modules() if module.training]
    random = [module for module in trained if isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0]
    if random or any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in trained):
        warnings.warn(
            f"{block.name} is in train mode with dropout or batch normalisation; it is compiled in eval mode",
            stacklevel=3,
        )
    with modes.evaluation_mode(block.as_module):
        yield


def replace(model: nn.Module, mlps: Mapping[str, nn.Module]) -> nn.Module:
    """Put each module of `mlps` in the place of the block of that name; the rest of a chain becomes nn.Identity.
    Returns `model`.

    The exact modules are kept aside for `restore`. Raises LutcError, and changes nothing, where a name matches no block
    or several, where a block is replaced already, or where the widths differ from the block's linear layers.
    """
    chosen = []
    for name, mlp in mlps.items():
        blocks = find_blocks(model, name)
        if len(blocks) != 1:
            raise LutcError(
                f"{name!r} matches {len(blocks)} blocks; give one replacement for each: "
                f"{', '.join(block.name for block in blocks[:6])}"
            )
        if any(path in _kept(model) for path in blocks[0].paths):
            raise LutcError(f"{name} is replaced already; call lutc.taylor.restore(model) first")
        _check_widths(blocks[0], mlp)
        chosen.append((blocks[0], mlp))
    kept = dict(_kept(model))
    for block, mlp in chosen:
        for index, path in enumerate(block.paths):
            kept[path] = block.modules[index]
            model.set_submodule(path, mlp if index == 0 else nn.Identity())
    # Not through nn.Module.__setattr__ or a plain dict of modules: the exact weights must not turn up in state_dict.
    object.__setattr__(model, "_lutc_exact", kept)
    return model


def restore(model: nn.Module) -> nn.Module:
    """Undo every `replace`: the exact modules come back. Returns `model`."""
    for path, module in _kept(model).items():
        model.set_submodule(path, module)
    object.__setattr__(model, "_lutc_exact", {})
    return model


def _kept(model: nn.Module) -> dict[str, nn.Module]:
    return getattr(model, "_lutc_exact", {})


def _check_widths(block: Block, mlp: nn.Module) -> None:
    linears = [module for module in block.as_module.modules() if isinstance(module, nn.Linear)]
    wanted = (getattr(mlp, "in_features", None), getattr(mlp, "out_features", None))
    if linears and None not in wanted:
        given = (linears[0].in_features, linears[-1].out_features)
        if given != wanted:
            raise LutcError(
                f"{block.name} maps {given[0]} to {given[1]} features, its replacement {wanted[0]} to {wanted[1]}; "
                "load the right table"
            )
