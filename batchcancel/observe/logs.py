"""The log: structlog, one line an event, on standard error or in a file."""

from __future__ import annotations

import logging
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, TextIO

import structlog

from batchcancel.model import (
    AnswersUnclaimed,
    ClockSet,
    DecryptionFailed,
    Event,
    GroupCommitted,
    KeyFileChanged,
    ListProgressed,
    MerchantStopped,
    PauseCause,
    PauseEnded,
    PauseStarted,
    RateChanged,
    RequestFinished,
    RetryScheduled,
    StopRequested,
)
from batchcancel.observe.colour import wants_colour

_UNCLAIMED: Final = "the manifest has no row that takes them; a plan of the earlier manifest shows them"
_WORTH_A_WARNING: Final = frozenset({PauseCause.OUTAGE, PauseCause.ENGINE_AWAY, PauseCause.NO_WORKER})
_HINTS: Final = {
    PauseCause.ENGINE_AWAY: {
        "hint": "Temporal does not answer; workers stop and keep what they have until it does"
    },
    PauseCause.NO_WORKER: {"hint": "no 'batchcancel worker' for this account takes what is handed out"},
}
"""The pauses that somebody may have to do something about; a service that asks for patience is everyday."""


class Log:
    """A listener that writes a line for each event that is important enough; see ``open_log``."""

    def __init__(self, lines: _Lines, logger: Any, *, tells_requests: bool) -> None:  # noqa: ANN401 - structlog's own type is Any
        self._lines = lines
        self._logger = logger
        self._tells_requests = tells_requests

    def __call__(self, event: Event) -> None:
        """Write the event's line."""
        if self._tells_requests or not isinstance(event, RequestFinished):  # by far the most, rarely wanted
            _write(self._logger, event)

    def warn(self, event: str, **fields: str | None) -> None:
        """Write a line about something beside the run that failed; nobody has to be able to read it."""
        with suppress(OSError):
            self._logger.warning(event, **fields)

    def close(self) -> None:
        """Close the log's file, if it has one; every line is in it already."""
        self._lines.close()


def open_log(*, level: str, as_json: bool, path: Path | None) -> Log:
    """Set up the log and return the listener that writes to it, to be closed by the caller.

    Args:
        level: The least important line that is written: ``debug``, ``info``, ``warning``, ``error``.
        as_json: One JSON object a line; otherwise for people, in colour on a terminal only.
        path: A file to append to, made with mode 0600 whatever the umask; None is standard error.

    Raises:
        OSError: The file can't be opened.
    """
    stream = None if path is None else _open_private(path)
    lines = _Lines(stream)
    logger = structlog.wrap_logger(
        lines,
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer()
            if as_json
            else structlog.dev.ConsoleRenderer(colors=wants_colour(stream or sys.stderr)),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        context_class=dict,
    )
    # Bound once: by itself it would be for every line, written or not.
    return Log(lines, logger.bind(), tells_requests=level == "debug")


class _Lines:
    """Write finished lines; to the standard error of the moment, so that a live bar can step aside."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream

    def msg(self, line: str) -> None:
        stream = self._stream or sys.stderr
        try:
            stream.write(line + "\n")
            stream.flush()
        except ValueError as exc:  # Python itself has closed the stream
            raise OSError("the log's stream is closed") from exc

    debug = info = warning = error = msg

    def close(self) -> None:
        if self._stream is not None:
            self._stream.close()


def _open_private(path: Path) -> TextIO:
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags | os.O_EXCL, 0o600)
    except FileExistsError:  # its owner has chosen its mode, and it may be /dev/stderr
        descriptor = os.open(path, flags, 0o600)
    else:
        os.fchmod(descriptor, 0o600)  # a strict umask would lock the next run out
    return os.fdopen(descriptor, "a", encoding="utf-8", errors="backslashreplace")


def _write(log: Any, event: Event) -> None:  # noqa: ANN401 - structlog's own type is Any
    match event:
        case RequestFinished():
            log.debug(
                "request.finished",
                kind=event.kind.value,
                invoice_id=event.invoice_id,
                http_status=event.http_status,
                failure=event.failure,
                latency_ms=round(event.latency_ms, 1),
                correlation_id=event.correlation_id,
            )
        case RetryScheduled():
            log.info(
                "retry.scheduled",
                kind=event.kind.value,
                invoice_id=event.invoice_id,
                wait_s=round(event.wait_s, 2),
            )
        case PauseStarted() | PauseEnded():
            _write_pause(log, event)
        case RateChanged():
            log.info("rate.changed", rate=round(event.rate, 1))
        case ClockSet():
            log.warning("clock.set", offset_s=round(event.offset_s, 1), hint="this machine's clock is off")
        case GroupCommitted():
            log.debug(
                "group.committed",
                results=len(event.results),
                size_bytes=event.size_bytes,
                sync_ms=round(event.sync_s * 1000, 1),
            )
        case ListProgressed():
            log.debug(
                "list.progressed",
                rows=event.rows,
                status=event.status,
                total=event.total,
                looked_up=event.looked_up,
                to_look_up=event.to_look_up,
            )
        case StopRequested() | MerchantStopped() | AnswersUnclaimed():
            _write_left(log, event)
        case KeyFileChanged() | DecryptionFailed():
            _write_key(log, event)


def _write_left(log: Any, event: StopRequested | MerchantStopped | AnswersUnclaimed) -> None:  # noqa: ANN401 - as above
    match event:
        case StopRequested():
            log.info("stop.requested", why=event.why)
        case MerchantStopped():
            log.warning("merchant.stopped", merchant_id=event.merchant_id, why=event.why)
        case AnswersUnclaimed():
            log.warning("answers.unclaimed", count=event.count, hint=_UNCLAIMED)


def _write_key(log: Any, event: KeyFileChanged | DecryptionFailed) -> None:  # noqa: ANN401 - as above
    match event:
        case KeyFileChanged():
            level = logging.INFO if event.problem is None else logging.WARNING
            log.log(level, "key_file.changed", path=event.path, problem=event.problem)
        case DecryptionFailed():
            log.warning(
                "decryption.failed",
                has_key=event.has_key,
                hint="encrypted replies can't be read; their invoices are looked up",
            )


def _write_pause(log: Any, event: PauseStarted | PauseEnded) -> None:  # noqa: ANN401 - as above
    level = logging.WARNING if event.cause in _WORTH_A_WARNING else logging.INFO
    match event:
        case PauseStarted():
            log.log(
                level,
                "pause.started",
                cause=event.cause.value,
                wait_s=event.wait_s,
                last_failure=event.last_failure,
                **_HINTS.get(event.cause, {}),
            )
        case PauseEnded():
            log.log(level, "pause.ended", cause=event.cause.value, lasted_s=round(event.lasted_s, 2))
