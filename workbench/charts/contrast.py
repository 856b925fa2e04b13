"""Contrast of colours, and the ink that is legible on a fill."""

from __future__ import annotations

BLACK, WHITE = "#000000", "#ffffff"


def contrast(one: str, other: str) -> float:
    """Returns the contrast ratio of two colours ``#rrggbb`` (WCAG 2.2, "contrast ratio"), from 1 to 21."""
    darker, lighter = sorted((_luminance(one), _luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def ink_on(fill: str) -> str:
    """Returns black or white, whichever has the higher contrast on this colour: at least 4.5, whatever the colour."""
    return max((BLACK, WHITE), key=lambda ink: contrast(ink, fill))


def _luminance(colour: str) -> float:
    """Returns the relative luminance (WCAG 2.2, "relative luminance")."""
    shares = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    linear = [share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
