"""The C of an exported table. Compiled as C99 with -Wall -Wextra -pedantic it gives no warning."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lutc.taylor.table import TaylorTable

# Of kept neurons: the registry's name -> an expression of t.
ACTIVATIONS = {
    "relu": "t > 0.0f ? t : t == t ? 0.0f : t",
    "gelu": "0.5f * t * (1.0f + erff(t * 0.70710678f))",
    "gelu_tanh": "0.5f * t * (1.0f + tanhf(0.79788456f * (t + 0.044715f * t * t * t)))",
    "quick_gelu": "t / (1.0f + expf(-1.702f * t))",
    "silu": "t / (1.0f + expf(-t))",
    "sigmoid": "1.0f / (1.0f + expf(-t))",
    "tanh": "tanhf(t)",
    "hardswish": "t * fminf(fmaxf(t + 3.0f, 0.0f), 6.0f) / 6.0f",
}

_HEADER = """/* {name}: {about}; exported by lutc. Compile without -ffast-math; needs libm. */
#ifndef {upper}_H
#define {upper}_H
{include}
#define {upper}_IN {d}
#define {upper}_OUT {o}
#define {upper}_CENTRES {k}
{load}
/* The number of the centre nearest to x[{upper}_IN], the first one on a tie{unloaded}. */
int {name}_centre(const float *x);

/* y[{upper}_OUT] = F(x[{upper}_IN]); NaN in x gives NaN in y. About {stack} bytes of stack, none of heap, {bytes}
   of constants; calls may run at once. */
void {name}_run(const float *x, float *y);

#endif /* {upper}_H */
"""

_LOAD_DECLARED = """
/* Take the table from {name}.bin, {name}_run's memory from then on: 0; 1: it is shorter than the table;
   2: it is another table's, or of another byte order; 3: it does not lie at a multiple of 16. */
int {name}_load(const void *blob, size_t size);
"""

LOAD = """{declared}

int {name}_load(const void *blob, size_t size)
{{
    static const uint64_t wanted[3] = {{{words}}};
    const unsigned char *bytes = (const unsigned char *)blob;
    if (blob == NULL || size < {size})
        return 1;
    if (memcmp(bytes, wanted, sizeof wanted) != 0)
        return 2;
    if ((uintptr_t)blob % 16 != 0)
        return 3;
{taken}
    return 0;
}}
"""

_READ = {
    "fp32": """static float {name}_read(float code)
{{
    return code;
}}
""",
    "fp16": """static float {name}_read(uint16_t code)
{{
    /* The exponent moves from a bias of 15 to one of 127; subnormals come out right, infinity and NaN do not occur. */
    uint32_t bits = (uint32_t)(code & 0x7fffu) << 13 | (uint32_t)(code & 0x8000u) << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value * 0x1p112f;
}}
""",
    "bf16": """static float {name}_read(uint16_t code)
{{
    uint32_t bits = (uint32_t)code << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}}
""",
}

# Lanes make the sums independent, so that a compiler may use vectors without being allowed to reorder.
_DOT = """static float {name}_dot(const {half} *row, const float *z, size_t n)
{{
    float sums[16] = {{0}};
    size_t i, lane, width;
    for (i = 0; i + 16 <= n; i += 16)
        for (lane = 0; lane < 16; ++lane)
            sums[lane] += {name}_read(row[i + lane]) * z[i + lane];
    for (lane = 0; lane < n % 16; ++lane)
        sums[lane] += {name}_read(row[i + lane]) * z[i + lane];
    for (width = 8; width > 0; width /= 2)
        for (lane = 0; lane < width; ++lane)
            sums[lane] += sums[lane + width];
    return sums[0];
}}
"""

_ACTIVATION = """
static float {name}_activation(float t)
{{
    return {expression};
}}
"""

_FLOAT = """
int {name}_centre(const float *x)
{{
    float best = 0.0f;
    int k, where = 0;
{unloaded}    for (k = 0; k < {k}; ++k) {{
        float score = {name}_dot({name}_centres + (size_t)k * {d}, x, {d}) - {name}_half_norms[k];
        if (k == 0 || score > best) {{
            best = score;
            where = k;
        }}
    }}
    return where;
}}

void {name}_run(const float *x, float *y)
{{
    float z[{p}]{centred};
    size_t k, i;
{loaded}    k = (size_t){name}_centre(x);
{fill}    for (i = 0; i < {o}; ++i)
        y[i] = {name}_read({name}_values[k * {o} + i]) + {name}_dot({name}_slopes + (k * {o} + i) * {p}, z, {p});
}}
"""

_INTEGER = """
/* Codes of z[n] with a step of their own: z[i] = codes[i] * step up to half a step; NaN for NaN or infinity in z. */
static float {name}_coded(const float *z, int16_t *codes, size_t n)
{{
    float largest = 0.0f, step;
    size_t i;
    int finite = 1;
    for (i = 0; i < n; ++i) {{
        float size = fabsf(z[i]);
        finite &= z[i] - z[i] == 0.0f;
        largest = size > largest ? size : largest;
    }}
    if (!finite) {{
        memset(codes, 0, n * sizeof *codes);
        return NAN;
    }}
    step = largest > 1e-30f ? largest / 32767.0f : 1.0f;
    for (i = 0; i < n; ++i)
        codes[i] = (int16_t)rintf(z[i] / step);
    return step;
}}

static int64_t {name}_sum(const int16_t *row, const int16_t *codes, size_t n)
{{
    int64_t sum = 0;
    size_t i;
    for (i = 0; i < n; ++i)
        sum += (int32_t)codes[i] * row[i];
    return sum;
}}

int {name}_centre(const float *x)
{{
    int16_t codes[{d}];
    float step;
    double best = 0.0;
    int k, where = 0;
{unloaded}    step = {name}_coded(x, codes, {d});
    for (k = 0; k < {k}; ++k) {{
        double score = (double){name}_sum({name}_routes + (size_t)k * {d}, codes, {d});
        score -= {name}_half_norms[k] / (double)step;
        if (k == 0 || score > best) {{
            best = score;
            where = k;
        }}
    }}
    return where;
}}

void {name}_run(const float *x, float *y)
{{
    float z[{p}]{centred}, step;
    int16_t codes[{widest}];
    size_t k, i, at;
{loaded}    k = (size_t){name}_centre(x);
{fill}{scaled}    step = {name}_coded(z, codes, {p});
    for (i = 0; i < {o}; ++i) {{
        const int8_t *row = {name}_slopes + (k * {o} + i) * {p};
        int64_t sum = 0;
        double fine;
        /* 127 * 32767 * 512 still fits an int32_t. */
        for (at = 0; at < {p}; at += 512) {{
            size_t end = {p} - at < 512 ? {p} : at + 512, j;
            int32_t part = 0;
            for (j = at; j < end; ++j)
                part += (int32_t)row[j] * codes[j];
            sum += part;
        }}
        fine = (double)sum * (double){name}_scales[k * {o} + i] * (double)step;
        y[i] = {name}_read({name}_values[k * {o} + i]) + (float)fine;
    }}
}}
"""

_FILL = """    for (i = 0; i < {d}; ++i)
        {target}[i] = x[i] - {name}_read({name}_centres[k * {d} + i]);
"""
_FILL_SECOND = """    for (i = 0; i < {d}; ++i)
        z[{d} + i] = z[i] * z[i] / 2.0f;
"""
_PROJECTED = """    for (i = 0; i < {r}; ++i)
        z[i] = {name}_dot({name}_projections + (k * {r} + i) * {d}, centred, {d});
"""
_PROJECTED_INTEGERS = """    step = {name}_coded(centred, codes, {d});
    for (i = 0; i < {r}; ++i) {{
        const double sum = (double){name}_sum({name}_projections + (k * {r} + i) * {d}, codes, {d});
        z[i] = (float)(sum * (double){name}_projection_scales[k * {r} + i] * (double)step);
    }}
"""
_FILL_NEURONS = """    for (i = 0; i < {n}; ++i) {{
        const size_t row = {row};
        z[{p} - {n} + i] = {name}_activation(
            {name}_dot({name}_weights + row * {d}, x, {d}) + {name}_read({name}_offsets[row]));
    }}
"""
_SCALED = """    for (i = 0; i < {p}; ++i)
        z[i] *= {name}_columns[i];
"""
_UNLOADED = """    if ({name}_slopes == NULL)
        return -1;
"""
_LOADED = """    if ({name}_slopes == NULL) {{
        for (i = 0; i < {o}; ++i)
            y[i] = NAN;
        return;
    }}
"""


def header(parts: dict, blob: bool) -> str:
    """NAME.h. parts: name, upper (the name in capitals), d, o, k, p, n, r, about, stack, bytes."""
    load = _LOAD_DECLARED.format(**parts) if blob else ""
    unloaded = f"; -1 before {parts['name']}_load" if blob else ""
    return _HEADER.format(**parts, include="#include <stddef.h>\n" if blob else "", load=load, unloaded=unloaded)


def source(table: TaylorTable, parts: dict, data: str, blob: bool) -> str:
    """NAME.c of `table` around `data`, the arrays or what loads them."""
    half = "float" if table.format == "fp32" else "uint16_t"
    integer, projected, activation = table.format == "int8", table.projections is not None, table.activation
    projection = (_PROJECTED_INTEGERS if integer else _PROJECTED) if projected else ""
    second = _FILL_SECOND if table.order == 2 else ""
    pieces = {
        "centred": ", centred[{d}]" if projected else "",
        "unloaded": _UNLOADED if blob else "",
        "loaded": _LOADED if blob else "",
        "fill": _FILL + second + projection + (_FILL_NEURONS if activation else ""),
        "scaled": _SCALED if table.columns is not None else "",
    }
    words = parts | {
        "target": "centred" if projected else "z",
        "row": "i" if table.chosen is None else "{name}_chosen[k * {n} + i]".format(**parts),
        "widest": max(parts["p"], parts["d"]) if projected else parts["p"],
    }
    pieces = {name: piece.format(**words) for name, piece in pieces.items()}
    code = _READ["fp16" if integer else table.format].format(**parts)
    if not integer or activation:
        code += "\n" + _DOT.format(**parts, half=half)
    if activation:
        code += _ACTIVATION.format(**parts, expression=ACTIVATIONS[activation])
    code += (_INTEGER if integer else _FLOAT).format(**words, **pieces)
    return (
        f'#include "{parts["name"]}.h"\n\n#include <math.h>\n#include <stddef.h>\n#include <stdint.h>\n'
        f"#include <string.h>\n\n{data}\n{code}"
    )
