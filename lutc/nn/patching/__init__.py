"""Replacing a model's activations, softmax, norms and MLPs by tables, and putting them back."""

from lutc.nn.patching.apply import patch, unpatch
from lutc.nn.patching.auditing import Audit, Operation, audit
from lutc.nn.patching.report import Left, Replaced, Report

__all__ = ["Audit", "Left", "Operation", "Replaced", "Report", "audit", "patch", "unpatch"]
