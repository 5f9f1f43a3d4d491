"""lutc compiles scalar functions and whole MLPs into lookup tables, writes them as JSON and runs them.

>>> import lutc
>>> tables = lutc.load("gelu_8")          # a TableSet: one Table per input scale

The compiler (this package) needs no torch; the runtime lives in `lutc.nn` and `lutc.kernels` and is imported on demand.
"""

from __future__ import annotations

import os

from lutc.lazy import lazy

__version__ = "0.1.0"

# In a plain checkout `kernels/` and `pretrained/` lie beside this folder, not in it; installed, setup.cfg maps them
# here.
if not os.path.isdir(os.path.join(os.path.dirname(__file__), "kernels")):
    __path__.append(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

_EXPORTS = {
    "load": "lutc.table.library",
    "compile": "lutc.compiler.pipeline",
    "calibrate": "lutc.calibration",
    "compile_model": "lutc.folder",
    "apply": "lutc.folder",
    "Table": "lutc.table",
    "TableSet": "lutc.table.table_set",
    "LutcError": "lutc.errors",
    "audit": "lutc.nn",
    "patch": "lutc.nn",
    "unpatch": "lutc.nn",
}
__all__ = sorted(_EXPORTS)
__getattr__, __dir__ = lazy(__name__, _EXPORTS)
