"""What every command that signs says of its certificates before its first request."""

from __future__ import annotations

import time

import pytest

from batchcancel.api import Expiry
from batchcancel.cli.ahead import say_what_expires

DAY_S = 86_400


def test_certificates_are_named_and_those_near_their_end_are_warned_of(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """All names first, then the warnings, so that these stand last."""
    now = time.time()
    say_what_expires(
        [
            Expiry(what="signing certificate", path="old.p12", at=now - DAY_S),
            Expiry(what="encryption certificate", path="mle.pem", at=now + 10.5 * DAY_S),
            Expiry(what="signing certificate", path="new.p12", at=now + 400 * DAY_S),
        ]
    )
    *named, expired, near = capsys.readouterr().err.splitlines()
    assert [line.split(", valid until ")[0] for line in named] == [
        "  key       signing certificate old.p12",
        "  key       encryption certificate mle.pem",
        "  key       signing certificate new.p12",
    ]
    assert expired.startswith("Warning: ")
    assert "old.p12" in expired
    assert "has expired" in expired
    assert "mle.pem" in near
    assert "expires in 10 days" in near


def test_a_shared_secret_has_no_certificate_to_tell_of(capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is said."""
    say_what_expires(())
    assert capsys.readouterr().err == ""
