"""Whether lines are written in colour."""

from __future__ import annotations

import os
from typing import TextIO


def wants_colour(stream: TextIO) -> bool:
    """Tell whether a stream is to be written to in colour: only a terminal that has colours.

    ``NO_COLOR`` says never, ``FORCE_COLOR`` says always; where both are set, there is none.
    """
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return os.environ.get("TERM") != "dumb" and stream.isatty()
