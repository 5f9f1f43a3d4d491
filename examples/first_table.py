# %% [markdown]
# # A first table: from a function to a table, a picture and a model
#
# Run it as a program (`python examples/first_table.py [FOLDER]`: files go there, by default into a new one), or cell by
# cell in an editor that knows `# %%`. It takes some seconds.

# %%
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import nn

import lutc
import lutc.nn
from lutc import functions
from lutc.formats import Inputs
from lutc.plots import save
from lutc.plots.table import table_figure

folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.mkdtemp())
folder.mkdir(parents=True, exist_ok=True)

# %% [markdown]
# ## A function
#
# lutc knows some thirty functions by name, with their tails: gelu is 0 on the far left and x on the far right.

# %%
gelu = functions.get("gelu")
x = np.linspace(-4, 4, 9)
print("x      ", x)
print("gelu(x)", np.round(gelu(x), 4))

# %% [markdown]
# ## A table
#
# Eight lines for int8 inputs at scale 2^-4. The search looks for breakpoints, slopes and intercepts at once, all
# of them numbers that the hardware can store (q1.6: eight bits, six of them behind the point).

# %%
tables = lutc.compile("gelu", entries=8, inputs=(Inputs(8, 2.0**-4),))
table = tables["4"]
for low, high, slope, intercept in zip(
    [-np.inf, *table.body.breakpoints], [*table.body.breakpoints, np.inf], table.body.slopes, table.body.intercepts
):
    print(f"{low:8.4f} < x <= {high:8.4f}:  {slope:9.6f} x + {intercept:9.6f}")

# %% [markdown]
# ## How wrong it can be
#
# The file carries a certificate over every input there is; here is the error at the codes of the range.

# %%
codes = np.arange(-64, 65) / 16
error = table(codes) - gelu(codes)
print(f"mean squared error {np.mean(error**2):.3e}, worst {np.abs(error).max():.4f} at {codes[np.abs(error).argmax()]}")
tables.save(folder / "gelu.json")

# %% [markdown]
# ## A picture

# %%
save(table_figure(tables, gelu), folder / "gelu.png")
print("wrote", folder / "gelu.json", "and", folder / "gelu.png")

# %% [markdown]
# ## A model
#
# `lutc.patch` finds GELU by what a module computes, not by its name, and puts the table in its place.

# %%
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(16, 64), nn.GELU(), nn.Linear(64, 4)).eval()
inputs = torch.randn(256, 16)
with torch.no_grad():
    exact = model(inputs)
    print(lutc.patch(model, activation=tables))
    approximate = model(inputs)
    cosine = torch.cosine_similarity(exact, approximate).mean()
    print(f"cosine of the outputs: {cosine:.5f}")

    # The same on int8 inputs, in integer arithmetic from end to end.
    lutc.unpatch(model)
    lutc.patch(model, activation=lutc.nn.QuantLUT(tables, scale=2**-4))
    print(f"with int8 inputs: {torch.cosine_similarity(exact, model(inputs)).mean():.5f}")

    lutc.unpatch(model)
    print("restored:", torch.equal(model(inputs), exact))
