"""The layout of a form beside its consequence, which stays in view while the form scrolls. The only style sheet of the pages."""

from __future__ import annotations

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

_KEY = "consequence"
_STYLE = f"""<style>
[data-testid="stMainBlockContainer"]:has(.st-key-{_KEY}) {{ padding-top: 4.5rem; }}
[data-testid="stColumn"]:has(.st-key-{_KEY}) {{
  position: sticky; align-self: flex-start; overflow-y: auto; z-index: 1;
  top: 4rem; max-height: calc(100vh - 4.5rem);
}}
.st-key-{_KEY} [data-testid="stMetricValue"] {{ font-size: 1.25rem; }}
@media (max-width: 640px) {{
  [data-testid="stColumn"]:has(.st-key-{_KEY}) {{
    top: auto; bottom: 0; max-height: 38vh; padding-top: 0.5rem;
    border-top: 2px solid rgba(128, 128, 128, 0.5); background: var(--st-background-color, Canvas);
  }}
}}
</style>"""
"""On a narrow page, where the columns follow each other, the consequence is a sheet at the lower edge."""


def form_and_consequence() -> tuple[DeltaGenerator, DeltaGenerator]:
    """Returns the containers of a form and of its consequence."""
    st.html(_STYLE)
    form, right = st.columns([5, 6], gap="large")
    return form, right.container(key=_KEY)
