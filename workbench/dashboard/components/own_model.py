"""Says how models, data and other plugins of the user's own get into the page, and which of them are loaded."""

from __future__ import annotations

import streamlit as st

from workbench.api.plugins import external_plugins

_TEXT = """\
A model, dataset, strategy or schedule of your own is a plugin: a class in one Python file. The page runs no code that it is
given; name the file when you start the dashboard, and its plugins appear in the lists of this form:

```bash
WORKBENCH_PLUGINS=my_model.py,my_data.py workbench dashboard
```

The variable takes files and importable modules, separated by commas. Plugins of an installed package are found without it, by the
entry points `workbench.models`, `workbench.data`, `workbench.strategies` and `workbench.schedules`.

- `docs/extending.md` has a complete example of each kind, an ordinary `nn.Module` among them.
- `workbench check-plugin my_model.py` checks it, and names which strategies can split it.
- A module needs no plugin from Python and the command line: notebook 9, *Your own model*, compares its splits in one call.
"""


def own_model() -> None:
    """Draws the explanation, folded."""
    with st.expander("Your own model", key="own model", icon=":material/extension:"):
        st.markdown(_TEXT)
        loaded = external_plugins()
        st.text(f"Loaded now: {', '.join(loaded)}." if loaded else "No plugin from outside the workbench is loaded now.")
