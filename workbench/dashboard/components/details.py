"""The details of one run: its failure, its name, tags and note, and its spec, which a new run can start from."""

from __future__ import annotations

import streamlit as st

from workbench.api.store import MAX_NAME, MAX_NOTE, Run
from workbench.dashboard.components.alerts import alert
from workbench.dashboard.components.failure import failure_card
from workbench.dashboard.components.navigate import go
from workbench.errors import WorkbenchError


def details(run: Run) -> None:
    """Draws the details of a run."""
    failure_card(run)
    try:
        labels, record = run.labels, run.record
    except WorkbenchError as error:
        alert("error", "This run cannot be read", str(error))
        return
    with st.form(f"labels {run.id}"):
        left, right = st.columns(2)
        with left:
            name = st.text_input("Name", labels.name or record.name, max_chars=MAX_NAME)
            tags = st.text_input("Tags, separated by commas", ", ".join(labels.tags or ()), max_chars=500)
        with right:
            note = st.text_area("Note", labels.note or "", max_chars=MAX_NOTE)
        if st.form_submit_button("Save", icon=":material/save:"):
            try:
                run.relabel(name=name, tags=tags.split(","), note=note)
            except WorkbenchError as error:
                alert("error", "Not saved", str(error))
            else:
                st.rerun()
    if st.button("Use this spec for a new run", icon=":material/tune:"):
        from workbench.dashboard.pages.configure import load_run

        load_run(run.id)
        go("configure")
    with st.expander("Spec"):
        st.code(run.spec_text, language="toml")
