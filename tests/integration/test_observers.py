"""Who watches a run hears of every end: those that no command line brings about, too."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from batchcancel.cli.observers import Observers, observing
from batchcancel.cli.signals import Interrupted
from batchcancel.errors import BatchCancelError, LedgerInUseError, ManifestError
from batchcancel.settings import Settings, load_receivers, load_settings

if TYPE_CHECKING:
    from tests.conftest import StartReceiver


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Want a metrics file."""
    return load_settings(
        ["ids.txt"], environ={}, env="sandbox", metrics_file=str(tmp_path / "m.prom"), log_file="/dev/null"
    )


@pytest.mark.parametrize(
    ("exc", "code"),
    [
        pytest.param(RuntimeError("a defect"), 1, id="defect"),
        pytest.param(BatchCancelError("a defect of ours"), 1, id="defect of ours"),
        pytest.param(ManifestError("no such file"), 2, id="manifest"),
        pytest.param(LedgerInUseError("held"), 5, id="in use"),
        pytest.param(Interrupted(15), 143, id="a signal before anything was sent"),
        pytest.param(KeyboardInterrupt(), 130, id="Ctrl-C"),
    ],
)
def test_whatever_is_raised_is_told_and_goes_on(
    start_receiver: StartReceiver, settings: Settings, tmp_path: Path, exc: BaseException, code: int
) -> None:
    """The exception is the one that was raised, and file and health check know its exit code."""
    server = start_receiver(200)
    with (
        pytest.raises(type(exc)) as caught,
        observing(load_receivers(environ={}, ping_url=server.url)) as one,
    ):
        one.begin(settings)
        raise exc
    assert caught.value is exc
    if code == 5:
        assert server.paths == []
        assert not (tmp_path / "m.prom").exists()
    else:
        assert server.paths == ["/fail"]
        text = (tmp_path / "m.prom").read_text(encoding="utf-8")
        assert f'batchcancel_last_run_exit_code{{name="m"}} {code}.0\n' in text


def test_warnings_about_addresses_are_said(capsys: pytest.CaptureFixture[str]) -> None:
    """With the host alone."""
    with observing(load_receivers(environ={}, ping_url="http://checks.example/t0ken")) as observers:
        assert isinstance(observers, Observers)
    assert capsys.readouterr().err == (
        "Warning: --ping-url calls checks.example without TLS: others may read address and content.\n"
    )
