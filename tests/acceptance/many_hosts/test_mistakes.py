"""What is to be mended is told in a sentence."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.acceptance.conftest import (
        RunCommand,
        Simulator,
    )
    from tests.acceptance.many_hosts.conftest import Server


def test_server_that_is_not_there_is_told_in_a_sentence(
    run_command: RunCommand, simulator: Simulator, tmp_path: Path, closed_port: int
) -> None:
    """Before anything is touched."""
    (tmp_path / "ids.csv").write_text("invoice_id\n1\n", encoding="utf-8")
    address = ("--address", f"127.0.0.1:{closed_port}")
    for command in (["submit", "ids.csv", *simulator.flags], ["worker", *simulator.flags], ["status"]):
        done = run_command(*command, *address, env=simulator.env)
        assert (done.returncode, done.stdout) == (2, "")
        assert "Temporal can't be reached at 127.0.0.1" in done.stderr
    assert not list(tmp_path.glob("*.ledger.jsonl"))


def test_namespace_that_is_not_there_is_told_in_a_sentence(
    server: Server, run_command: RunCommand, simulator: Simulator, tmp_path: Path
) -> None:
    """With what makes one."""
    (tmp_path / "ids.csv").write_text("invoice_id\n1\n", encoding="utf-8")
    where = ("--address", server.address, "--namespace", "nowhere")
    for command in (["submit", "ids.csv", *simulator.flags], ["worker", *simulator.flags], ["pause"]):
        done = run_command(*command, *where, env=simulator.env)
        assert (done.returncode, done.stdout) == (2, "")
        assert "has no namespace 'nowhere'" in done.stderr
        assert "temporal operator namespace create" in done.stderr
    assert not list(tmp_path.glob("*.ledger.jsonl"))


def test_flags_that_many_hosts_do_not_know_are_refused(
    run_command: RunCommand, simulator: Simulator, tmp_path: Path
) -> None:
    """None is ignored, wherever it comes from; nor is the simulator inside a process."""
    (tmp_path / "ids.csv").write_text("invoice_id\n1\n", encoding="utf-8")
    assert run_command("submit", "ids.csv", "--dry-run", *simulator.flags, env=simulator.env).returncode == 2
    alone = run_command("worker", "--env", "sandbox")
    assert alone.returncode == 2
    assert "--base-url" in alone.stderr
