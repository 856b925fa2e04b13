"""The layout of a form beside its consequence, which stays in view while the form scrolls."""

from __future__ import annotations

import streamlit as st
from streamlit.delta_generator import DeltaGenerator


def form_and_consequence() -> tuple[DeltaGenerator, DeltaGenerator]:
    """Returns the containers of a form and of its consequence, which ``style.css`` keeps in view."""
    form, right = st.columns([5, 6], gap="large")
    return form, right.container(key="consequence")
