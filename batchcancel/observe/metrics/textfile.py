"""The metrics' file for node_exporter: replaced as a whole, and never in the place of another file."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Final

from batchcancel.errors import SettingsError

_MARK: Final = b"# batchcancel metrics; every run that names this file replaces it.\n"
"""How each of our files begins: by it an earlier one is told from other files."""
_MODE: Final = 0o644
"""node_exporter is another user, and there is nothing in it that others may not see."""
_MOST_BYTES: Final = 1_000_000


class TextFile:
    """One metrics file."""

    def __init__(self, path: Path) -> None:
        """Look what is there; nothing is written.

        Args:
            path: The file. What node_exporter is to read ends in ``.prom``.

        Raises:
            SettingsError: Something else is there, or it can't be read.
        """
        self.path: Final = path
        self.earlier = ""
        """What an earlier run left; empty if there was none."""
        if not os.path.lexists(path):
            return
        if path.is_symlink() or not path.is_file():
            raise SettingsError(
                f"{path} is there already and is no plain file. Name another for the metrics."
            )
        try:
            with path.open("rb") as file:
                content = file.read(_MOST_BYTES)
        except OSError as exc:
            raise _unusable(path, exc) from exc
        if content and not content.startswith(_MARK):  # empty is what a power cut may leave
            raise SettingsError(
                f"{path} is no file of metrics that batchcancel wrote; it was left as it is. Name another."
            )
        self.earlier = content.decode(errors="replace")

    def write(self, metrics: bytes) -> None:
        """Replace the file; readers find it whole at any moment, and so does the next run after a crash.

        Raises:
            OSError: That can't be done; the file is as it was.
        """
        folder = self.path.parent
        # node_exporter reads *.prom alone, so the unfinished file must not end that way.
        descriptor, name = tempfile.mkstemp(dir=folder, prefix=f".{self.path.name[:100]}.", suffix=".tmp")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(_MARK + metrics)
                file.flush()
                os.fchmod(file.fileno(), _MODE)
                os.fsync(file.fileno())
            Path(name).replace(self.path)
        except BaseException:
            with suppress(OSError):
                Path(name).unlink()
            raise
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)

    def begin(self, metrics: bytes) -> None:
        """Write it for the first time.

        Raises:
            SettingsError: That can't be done.
        """
        try:
            self.write(metrics)
        except OSError as exc:
            raise _unusable(self.path, exc) from exc


def _unusable(path: Path, exc: OSError) -> SettingsError:
    return SettingsError(f"The metrics file {path} can't be written: {exc.strerror}.")
