"""What a file says, in messages: in few words, since it may say millions."""

from __future__ import annotations

__all__ = ["shorten"]

LONGEST = 2_000  # characters


def shorten(text: str, limit: int = LONGEST) -> str:
    """The text itself, or its beginning and how long it is."""
    return text if len(text) <= limit else f"{text[:limit]}... ({len(text):,} characters)"
