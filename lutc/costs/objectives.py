"""What a table can be judged by while it is searched, in one place."""

from __future__ import annotations

# name -> what is smallest in the table that is found
OBJECTIVES = {
    "squared": "mean squared error",
    "relative": "mean squared error relative to f; the mean relative error for cutpoints",
    "absolute": "mean absolute error",
    "maximum": "largest error",
    "codes": "wrong output codes",
    "ulp": "mean error in units of the last place of the values",
    "layer": "what the table adds to the error of a model's next layer",
    "layer-diagonal": "its diagonal, a weighted squared error",
    "layer-total": "the whole error there, what rounding and clipping the inputs does included",
}
SQUARED = ("squared", "relative")  # sums over samples of weight * error^2
LAYER = ("layer", "layer-diagonal", "layer-total")
