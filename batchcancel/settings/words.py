"""The words that options take where only a few are meant."""

from __future__ import annotations

from enum import StrEnum


class Environment(StrEnum):
    """What a host is; goes by the host that is called, never by the word alone."""

    SANDBOX = "sandbox"
    TEST = "test"
    PRODUCTION = "production"


class Auth(StrEnum):
    """How requests are signed."""

    JWT = "jwt"
    P12 = "p12"
    HTTP_SIGNATURE = "http_signature"


class Mle(StrEnum):
    """Which messages are encrypted besides TLS."""

    OFF = "off"
    REQUEST = "request"
    BOTH = "both"


class ManifestFormat(StrEnum):
    """How a manifest is written: the words of ``manifest.Format``, which settings may not import."""

    CSV = "csv"
    TSV = "tsv"
    JSONL = "jsonl"
    TXT = "txt"


class RetryErrors(StrEnum):
    """Which errors of earlier runs are asked about again."""

    OPEN = "open"
    ALL = "all"
    NONE = "none"


class Progress(StrEnum):
    """How progress is shown, on standard error."""

    AUTO = "auto"
    BAR = "bar"
    PLAIN = "plain"
    JSON = "json"
    NONE = "none"


class LogFormat(StrEnum):
    """How log lines are written."""

    CONSOLE = "console"
    JSON = "json"


class LogLevel(StrEnum):
    """The least important log line that is written."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"
