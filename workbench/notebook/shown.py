"""What all widgets share: they are seen as they are in JupyterLab, and as a picture or a text where no front end runs."""

from __future__ import annotations

from typing import Any

import ipywidgets


class Shown(ipywidgets.VBox):  # type: ignore[misc]
    """A column of widgets with a still image of itself; a subclass says what that is."""

    def still(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Data and metadata, by type, of what is shown where no front end runs."""
        raise NotImplementedError

    def _repr_mimebundle_(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        data, metadata = self.still()
        return {**super()._repr_mimebundle_(**kwargs), **data}, metadata
