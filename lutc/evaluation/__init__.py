"""What tables cost a whole model: perplexity or embeddings, and the error of every layer, beside the exact functions on
the same batches.

>>> from lutc.evaluation import evaluate, variant
>>> evaluate(load("SmolLM2-135M"), batches, [variant("silu_16"), variant("FPLUT=silu_fplut,exp_fplut,rsqrt_fplut")])
"""

from lutc.lazy import lazy

_EXPORTS = {
    "Evaluation": "lutc.evaluation.results",
    "LayerResult": "lutc.evaluation.results",
    "Result": "lutc.evaluation.results",
    "Variant": "lutc.evaluation.variants",
    "evaluate": "lutc.evaluation.running",
    "int8_scales": "lutc.evaluation.variants",
    "on_codes": "lutc.evaluation.variants",
    "variant": "lutc.evaluation.variants",
}
__all__ = sorted(_EXPORTS)
__getattr__, __dir__ = lazy(__name__, _EXPORTS)
