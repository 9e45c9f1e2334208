"""The log that a command was told to write."""

from __future__ import annotations

from pathlib import Path

from batchcancel.errors import SettingsError
from batchcancel.observe.logs import Log, open_log
from batchcancel.settings import LogFormat, Settings


def open_log_of(settings: Settings) -> Log:
    """Open the log that the settings ask for; the caller closes it.

    Raises:
        SettingsError: Its file can't be written.
    """
    options = settings.options
    try:
        return open_log(
            level=options.log_level,
            as_json=options.log_format is LogFormat.JSON,
            path=Path(options.log_file) if options.log_file else None,
        )
    except OSError as exc:
        raise SettingsError(f"The log file {options.log_file} can't be written: {exc.strerror}.") from exc
