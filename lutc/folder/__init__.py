"""A folder of tables for a whole model: one for every function of every layer, made in one go, put into the model
anywhere.

>>> lutc.compile_model(model, batches, "tables", text="book.txt")
>>> lutc.apply(model, "tables")      # in another process
"""

from lutc.lazy import lazy

_EXPORTS = {
    "TableChoice": "lutc.folder.jobs",
    "Entry": "lutc.folder.manifest",
    "Folder": "lutc.folder.manifest",
    "apply": "lutc.folder.applying",
    "compile_model": "lutc.folder.building",
    "read": "lutc.folder.manifest",
}
__all__ = sorted(_EXPORTS)
__getattr__, __dir__ = lazy(__name__, _EXPORTS)
