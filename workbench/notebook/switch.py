"""A button that is on or off, and shows which."""

from __future__ import annotations

from typing import Any

import ipywidgets as w


def switch(label: str, tooltip: str, value: bool) -> Any:
    """Returns a toggle button that is coloured and ticked while it is on."""
    button = w.ToggleButton(value, description=label, tooltip=tooltip, layout=w.Layout(width="auto"))

    def dress() -> None:
        button.button_style, button.icon = ("primary", "check") if button.value else ("", "")

    button.observe(lambda change: dress(), "value")
    dress()
    return button
