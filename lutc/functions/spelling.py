"""How a function with parameters is written, in files, on the command line and in Python alike: `elu(alpha=0.5)`."""

from __future__ import annotations

import re
from collections.abc import Mapping

from lutc.errors import LutcError

_CALL = re.compile(r"\s*(\w[\w.]*)\s*\((.*)\)\s*", re.DOTALL)
_PAIR = re.compile(r"\s*([A-Za-z_]\w*)\s*=\s*([^\s=]+)\s*")


def spelled(name: str, parameters: Mapping[str, float]) -> str:
    """`name(a=1, b=0.5)`; the name alone without parameters. Numbers are the shortest that read back as themselves."""
    if not parameters:
        return name
    return f"{name}({', '.join(f'{key}={number(value)}' for key, value in parameters.items())})"


def number(value: float) -> str:
    """0.5, 5, 1e-06: float64 in as few digits as tell it."""
    text = repr(float(value))
    return text[:-2] if text.endswith(".0") else text


def parts(text: str) -> tuple[str, dict[str, float]]:
    """("elu", {"alpha": 0.5}) of `elu(alpha=0.5)`, and (text, {}) of text without brackets. LutcError for brackets
    that are not closed, and parameters that are not `name=number`, or stand twice.
    """
    found = _CALL.fullmatch(text)
    if found is None:
        if "(" in text:
            raise LutcError(f"{text!r:.80} is no function with parameters; write it as elu(alpha=0.5)")
        return text, {}
    parameters: dict[str, float] = {}
    for part in found[2].split(",") if found[2].strip() else ():
        pair = _PAIR.fullmatch(part)
        try:
            value = float(pair[2]) if pair else None
        except ValueError:
            value = None
        if pair is None or value is None:
            raise LutcError(
                f"{part.strip()!r:.60} in {text!r:.80} is no parameter; write name=number, as in elu(alpha=0.5)"
            )
        if pair[1] in parameters:
            raise LutcError(f"{pair[1]} stands twice in {text!r:.80}")
        parameters[pair[1]] = value
    return found[1], parameters


def file_name(text: str) -> str:
    """The spelling without brackets and blanks, for a file: elu(alpha=0.5) as elu_alpha_0.5."""
    return re.sub(r"[(=,\s]+", "_", text.rstrip(" )"))


def base(text: str) -> str:
    """The name without parameters."""
    return text.partition("(")[0].strip()
