"""The runtime in torch: tables as modules, integer and composed operators, and models patched with them."""

from lutc.lazy import lazy

_EXPORTS = {
    "LUT": "lutc.nn.lut",
    "QuantLUT": "lutc.nn.quant",
    "FakeQuantize": "lutc.nn.fake_quant",
    "QuantActivation": "lutc.nn.fake_quant",
    "LUTSoftmax": "lutc.nn.softmax",
    "LUTAttention": "lutc.nn.attention",
    "LUTLayerNorm": "lutc.nn.norm",
    "LUTRMSNorm": "lutc.nn.norm",
    "IntegerAttention": "lutc.nn.integer_attention",
    "IntegerSoftmax": "lutc.nn.integer_softmax",
    "IntegerLayerNorm": "lutc.nn.integer_norm",
    "IntegerRMSNorm": "lutc.nn.integer_norm",
    "ChannelLUT": "lutc.nn.channel_tables",
    "FPLUT": "lutc.nn.fplut",
    "TaylorMLP": "lutc.taylor.module",
    "gqa_lut_pwl": "lutc.nn.gqa_lut",
    "audit": "lutc.nn.patching",
    "patch_graph": "lutc.nn.patching.graphs",
    "patch": "lutc.nn.patching",
    "unpatch": "lutc.nn.patching",
}
__all__ = sorted(_EXPORTS)
__getattr__, __dir__ = lazy(__name__, _EXPORTS)
