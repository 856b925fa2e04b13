"""Says how models, data and plugins of the user's own get into the page, and which of them it offers."""

from __future__ import annotations

import streamlit as st

from workbench.api.offered import offered
from workbench.api.plugins import external_plugins

_TEXT = """\
Name your models and data when you start the dashboard; the lists of this form then offer them. The page runs no code and reads no
file that an address or a visitor names.

```bash
workbench dashboard --model my_model.py:build --dataset my_data.py:samples
```

- A model is a function or class that returns an `nn.Module`: `PATH.py:CALLABLE` or `package.module:CALLABLE`; or a config of
  Transformers: `hf:PATH/config.json`, `hf:llama`.
- Data is a file or folder (`table.csv`, `.parquet`, `.npz`, `.npy`, `.txt`, images by class), or a callable that returns a torch
  dataset. `--loss my_model.py:loss` offers a loss of (outputs, targets).
- A strategy or schedule of your own is a plugin: `WORKBENCH_PLUGINS=my_strategy.py workbench dashboard`.

`docs/extending.md` describes each, `docs/dashboard.md` what visitors of the page may do with it. Notebook 9, *Your own model*,
compares the splits of a module in one call.
"""


def own_model() -> None:
    """Draws the explanation, folded."""
    with st.expander("Your own model", key="own model", icon=":material/extension:"):
        st.markdown(_TEXT)
        own = offered()
        names = [*own.models, *own.datasets, *own.losses, *external_plugins()]
        st.text(f"Offered now: {', '.join(names)}." if names else "Nothing from outside the workbench is offered now.")
