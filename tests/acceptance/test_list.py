"""``batchcancel list`` as a person or a nightly job calls it: a manifest that a run takes as it is."""

from __future__ import annotations

import csv
import json
import re
import signal
import socket
import subprocess
from collections import Counter
from decimal import Decimal
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

import pytest

if TYPE_CHECKING:
    from tests.acceptance.conftest import ReadLedger, RunCommand, Simulator, StartRelay, StartSimulator
    from tests.conftest import RawRequest, StartRawServer

SANDBOX = ("--env", "sandbox")
HEADER = "id,status,due,amount,currency"
CUSTOMER = re.compile(r"Tanya|customer|@|Made-Up", re.IGNORECASE)


@pytest.fixture
def busy(start_simulator: StartSimulator) -> Simulator:
    """Run a simulator that begins with 5,000 invoices of every kind."""
    return start_simulator("--invoices", "5000")


def read_csv(path: Path) -> list[dict[str, str]]:
    """Read a list with another reader than the package's."""
    with path.open(encoding="ascii", newline="") as file:
        return list(csv.DictReader(file))


def test_a_list_is_a_manifest_that_a_run_takes_as_it_is(
    run_command: RunCommand, busy: Simulator, tmp_path: Path, read_ledger: ReadLedger
) -> None:
    """What is listed matches what a look-up says, is canceled, and is not listed any more."""
    conditions = ("--due-before", "2025-03-15", "--currency", "eur", "--min-amount", "100.5")
    listed = run_command("list", *busy.flags, *conditions, "--out", "open.csv", env=busy.env)
    assert (listed.returncode, listed.stdout) == (0, "")
    rows = read_csv(tmp_path / "open.csv")
    assert re.fullmatch(
        r"batchcancel \S+: listing DRAFT, CREATED, SENT at 127\.0\.0\.1 \(sandbox\)\n"
        rf"  read   3,751 invoices of merchant san\*\*\*nt in 6 pages, {len(rows)} fit\n"
        rf"  wrote  open\.csv: {len(rows)} rows, [\d,]+ bytes\n",
        listed.stderr,
    )
    assert {row["currency"] for row in rows} == {"EUR"}
    assert {row["status"] for row in rows} == {"DRAFT", "CREATED", "SENT"}
    assert len(rows) > 50
    asked = busy.requests()
    assert {(one["method"], one["operation"]) for one in asked} == {("GET", "list")}
    assert not CUSTOMER.search((tmp_path / "open.csv").read_text(encoding="ascii") + listed.stderr)
    assert (tmp_path / "open.csv").stat().st_mode & 0o777 == 0o600

    matches = ("--match", "amount=total", "--match", "due=dueDate", "--match", "currency=currency")
    ran = run_command("run", "open.csv", *busy.flags, *matches, "--ledger", "l.jsonl", env=busy.env)
    assert ran.returncode == 0, ran.stderr
    outcomes = Counter(
        record["outcome"] for record in read_ledger(tmp_path / "l.jsonl") if record["type"] == "result"
    )
    assert outcomes == {"canceled": len(rows)}
    again = run_command("list", *busy.flags, *conditions, "--out", "rest.csv", env=busy.env)
    assert (again.returncode, (tmp_path / "rest.csv").read_text()) == (0, f"{HEADER}\n")


def test_a_list_goes_through_a_pipe_into_a_run(run_command: RunCommand, tmp_path: Path) -> None:
    """Between two processes, each with a simulator of its own: amounts are the same in both."""
    listed = run_command("list", *SANDBOX, "--status", "draft", "--status", "Paid", "--format", "jsonl")
    assert listed.returncode == 0, listed.stderr
    objects = [json.loads(line) for line in listed.stdout.splitlines()]
    assert Counter(one["status"] for one in objects) == {"DRAFT": 209, "PAID": 208}
    assert set(objects[0]) == set(HEADER.split(","))
    ran = run_command(
        "run", "-", "--format", "jsonl", *SANDBOX, "--ledger", "l.jsonl", "--match", "amount=total",
        "--max-mismatch", "100", stdin=listed.stdout,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert re.search(r"canceled +canceled +209\n +already_paid +paid +208\n", ran.stdout), ran.stdout


def test_formats_go_by_the_file_s_name(run_command: RunCommand, tmp_path: Path) -> None:
    """Each is read by a run under that name."""
    few = ("--status", "SENT", "--due-before", "2025-02-20")
    for name in ("a.csv", "b.jsonl", "c.csv.gz", "d"):
        assert run_command("list", *SANDBOX, *few, "--out", name).returncode == 0
    for name in ("a.csv", "b.jsonl", "c.csv.gz"):
        ran = run_command("run", name, *SANDBOX, "--ledger", f"{name}.ledger")
        assert (ran.returncode, "27 invoices to cancel" in ran.stderr) == (0, True), ran.stderr
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "d").read_bytes()


def test_an_empty_list_is_a_header(run_command: RunCommand, simulator: Simulator, tmp_path: Path) -> None:
    """The service's 404 is no error; a run of it has nothing to do."""
    ended = run_command("list", *simulator.flags, "--out", "empty.csv", env=simulator.env)
    assert (ended.returncode, (tmp_path / "empty.csv").read_text()) == (0, f"{HEADER}\n")
    assert "read   0 invoices" in ended.stderr
    assert run_command("run", "empty.csv", *SANDBOX).returncode == 0


def test_dates_of_creation_that_the_list_lacks_are_looked_up_and_said(
    run_command: RunCommand, busy: Simulator
) -> None:
    """It costs a request each, so one is told how many."""
    flags = ("--status", "SENT", "--created-after", "2025-12-01", "--created-before", "2025-12-10")
    ended = run_command("list", *busy.flags, *flags, env=busy.env)
    assert ended.returncode == 0, ended.stderr
    asked = Counter(one["operation"] for one in busy.requests())
    assert f"  asked  {asked['get']} invoices one by one: the list does not say when they were created" in (
        ended.stderr
    )
    dues = [row["due"] for row in csv.DictReader(ended.stdout.splitlines())]
    assert (min(dues), max(dues)) == ("2026-01-01", "2026-01-08")  # 30 days after 2 and 9 December


def test_progress_is_for_programs_too(run_command: RunCommand, start_simulator: StartSimulator) -> None:
    """An object a second on standard error."""
    slow = start_simulator("--invoices", "5000", "--latency-ms", "400")
    ended = run_command("list", *slow.flags, "--progress", "json", env=slow.env)
    said = [json.loads(line) for line in ended.stderr.splitlines() if line.startswith("{")]
    assert 2 <= len(said) <= 5
    assert [one["ended"] for one in said] == [False] * (len(said) - 1) + [True]
    assert 0 < said[0]["read"] < said[-1]["read"]
    assert f"read   {said[-1]['read']:,} invoices" in ended.stderr


@pytest.mark.parametrize(
    ("conditions", "said"),
    [
        pytest.param((), "in 3 currencies: EUR, GBP, USD.", id="of any currency"),
        pytest.param(("--currency", "USD", "--currency", "EUR"), "in 2 currencies: EUR, USD.", id="of two"),
        pytest.param(("--currency", "USD"), None, id="of one"),
    ],
)
def test_amounts_of_several_currencies_are_compared_as_numbers_and_that_is_said(
    run_command: RunCommand, busy: Simulator, tmp_path: Path, conditions: tuple[str, ...], said: str | None
) -> None:
    """A hundred of one is not a hundred of another."""
    listed = run_command(
        "list", *busy.flags, *conditions, "--min-amount", "900", "--max-amount", "1000", "--out", "l.csv",
        env=busy.env,
    )  # fmt: skip
    assert listed.returncode == 0, listed.stderr
    assert all(900 <= Decimal(row["amount"]) <= 1000 for row in read_csv(tmp_path / "l.csv"))
    if said is None:
        assert "currencies" not in listed.stderr
    else:
        assert f"Note: amounts were compared as numbers, {said}" in listed.stderr


MISUSE = [
    pytest.param((), "--env sandbox", id="no environment"),
    pytest.param((*SANDBOX, "--status", "SNET"), "Did you mean SENT?", id="mistyped status"),
    pytest.param((*SANDBOX, "--due-before", "01/31/2026"), "Write it as 2026-01-31", id="another date"),
    pytest.param((*SANDBOX, "--due-before", "2026-02-30"), "'2026-02-30' is no day", id="no such day"),
    pytest.param((*SANDBOX, "--currency", "dollars"), "three letters", id="currency"),
    pytest.param((*SANDBOX, "--min-amount", "1,000"), "without a sign or a comma", id="amount"),
    pytest.param(
        (*SANDBOX, "--currency", "USD", "--min-amount", "10", "--max-amount", "9.99"),
        "--min-amount 10 is more than --max-amount 9.99",
        id="least above greatest",
    ),
    pytest.param(
        (*SANDBOX, "--due-after", "2026-01-30", "--due-before", "2026-01-31"),
        "No day is after --due-after 2026-01-30",
        id="no day between",
    ),
    pytest.param(
        (*SANDBOX, "--created-after", "2026-02-01", "--created-before", "2026-01-31"),
        "No day is after --created-after",
        id="created in no time",
    ),
    pytest.param((*SANDBOX, "--out", "there.csv"), "--force to replace it", id="file that is there"),
    pytest.param((*SANDBOX, "--out", "list.txt"), "would be read as txt", id="name of another format"),
    pytest.param((*SANDBOX, "--out", "nowhere/list.csv"), "Make it first", id="no such folder"),
    pytest.param((*SANDBOX, "--out", "."), "no plain file", id="folder"),
    pytest.param(("--env", "test"), "BATCHCANCEL_MERCHANT_ID", id="no credentials"),
    pytest.param((*SANDBOX, "--yes"), "--yes", id="flag of a run"),
]


@pytest.mark.parametrize(("flags", "sentence"), MISUSE)
def test_misuse_is_a_sentence_and_changes_nothing(
    run_command: RunCommand, tmp_path: Path, flags: tuple[str, ...], sentence: str
) -> None:
    """Exit code 2 before anything is asked."""
    (tmp_path / "there.csv").write_text("mine", encoding="utf-8")
    ended = run_command("list", *flags)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert sentence in ended.stderr
    assert "Traceback" not in ended.stderr
    assert "listing" not in ended.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["there.csv"]
    assert (tmp_path / "there.csv").read_text(encoding="utf-8") == "mine"


def test_a_file_is_replaced_only_by_force(run_command: RunCommand, tmp_path: Path) -> None:
    """And only once the new list is whole."""
    (tmp_path / "m.csv").write_text("mine", encoding="utf-8")
    forced = run_command("list", *SANDBOX, "--out", "m.csv", "--force", "--format", "csv")
    assert forced.returncode == 0
    assert (tmp_path / "m.csv").read_text(encoding="ascii").startswith(f"{HEADER}\n")


def test_a_key_that_is_refused_is_exit_4(run_command: RunCommand, busy: Simulator, tmp_path: Path) -> None:
    """Nothing is written."""
    wrong = {**busy.env, "BATCHCANCEL_KEY_ID": "another"}
    ended = run_command("list", *busy.flags, "--out", "m.csv", env=wrong)
    assert ended.returncode == 4
    assert "Nothing was written.\nError: The service refuses the key" in ended.stderr
    assert not (tmp_path / "m.csv").exists()


def test_a_list_that_is_refused_is_exit_2(
    run_command: RunCommand, busy: Simulator, start_relay: StartRelay, tmp_path: Path
) -> None:
    """As the service does where invoicing is not enabled."""
    url = start_relay(busy, lambda _method, path: 400 if "status=" in path else None)
    ended = run_command("list", *SANDBOX, "--base-url", url, "--out", "m.csv", env=busy.env)
    assert ended.returncode == 2
    assert "invoicing is not enabled for this merchant, or it does not list by the status" in ended.stderr
    assert not (tmp_path / "m.csv").exists()


def test_a_list_that_is_torn_is_exit_3_and_writes_nothing(
    run_command: RunCommand, busy: Simulator, start_relay: StartRelay, tmp_path: Path
) -> None:
    """Its second page is gone each time: half a list would look like a whole one."""
    url = start_relay(busy, lambda _method, path: 404 if "offset=950&" in path else None)
    arguments = ("list", *SANDBOX, "--base-url", url, "--status", "SENT")
    ended = run_command(*arguments, "--out", "m.csv", env=busy.env)
    assert (ended.returncode, ended.stdout) == (3, "")
    assert "Warning: two pages of SENT had no invoice in common, whenever read." in ended.stderr
    assert "Error: Invoices may be missing, so nothing was written." in ended.stderr
    assert not (tmp_path / "m.csv").exists()
    piped = run_command(*arguments, env=busy.env)
    assert (piped.returncode, piped.stdout) == (3, "")


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_it_and_nothing_is_written(
    command_path: Path,
    clean_environment: dict[str, str],
    start_simulator: StartSimulator,
    tmp_path: Path,
    signum: int,
    code: int,
) -> None:
    """In the middle of its pages, at once."""
    slow = start_simulator("--invoices", "20000", "--latency-ms", "200")
    with subprocess.Popen(
        [command_path, "list", *slow.flags, "--out", "m.csv"],
        env=clean_environment | slow.env,
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    ) as process:
        slow.wait_for("list", 3)
        process.send_signal(signum)
        said = process.communicate(timeout=20)[1]
    assert process.returncode == code
    assert said.endswith("Interrupted; nothing was written.\n")
    assert not any(path.name.startswith((".m.csv", "m.csv")) for path in tmp_path.iterdir())


def test_a_reader_that_has_seen_enough_is_no_failure(
    command_path: Path, clean_environment: dict[str, str], tmp_path: Path
) -> None:
    """As with ``| head``; a full disk is one."""
    with subprocess.Popen(
        [command_path, "list", *SANDBOX],
        env=clean_environment,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="ascii",
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        said = process.stderr.read()
        assert (process.wait(30), "Traceback" in said, "rror" in said) == (0, False, False), said
    with Path("/dev/full").open("w", encoding="ascii") as full:
        ended = subprocess.run(
            [command_path, "list", *SANDBOX],
            env=clean_environment,
            cwd=tmp_path,
            stdout=full,
            stderr=subprocess.PIPE,
            encoding="ascii",
            check=False,
            timeout=60,
        )
    assert ended.returncode == 2
    assert "Error: Standard output can't be written: No space left on device." in ended.stderr


def item(invoice_id: object, **fields: object) -> dict[str, object]:
    """Build an invoice of a list as no service should."""
    usual: dict[str, object] = {
        "id": invoice_id,
        "status": "SENT",
        "customerInformation": {"name": "=HYPERLINK(1)", "email": "tanya.lee@customers.example"},
        "invoiceInformation": {"dueDate": "2026-01-31"},
        "orderInformation": {"amountDetails": {"totalAmount": "10.10", "currency": "USD"}},
    }
    return usual | fields


def send_json(connection: socket.socket, reply: object) -> None:
    """Answer a request."""
    body = json.dumps(reply).encode()
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))


def test_what_a_hostile_list_holds_is_left_out_and_said(
    run_command: RunCommand, start_raw_server: StartRawServer, simulator: Simulator, tmp_path: Path
) -> None:
    """No id that isn't one, no formula, no customer gets into a manifest, nor another status."""
    formulas = {"amountDetails": {"totalAmount": "@SUM(1)", "currency": "=cmd|calc"}}
    items = [
        item("2675"),
        item(2676, invoiceInformation={"dueDate": "=1+1"}),
        item("2677", orderInformation=formulas),
        item("=1+1"),
        item(" 2678"),
        item("../../2679"),
        item("2680,SENT\n2681"),
        item(None),
        item("PAID-1", status="PAID"),
        item("ODD-1", status='SENT"\n=1+1'),
    ]
    server = start_raw_server(
        lambda connection, _request: send_json(connection, {"totalInvoices": 10, "invoices": items})
    )
    arguments = ("list", *SANDBOX, "--base-url", server.base_url, "--status", "SENT", "--out", "m.csv")
    ended = run_command(*arguments, env=simulator.env)
    assert (tmp_path / "m.csv").read_text(encoding="ascii").splitlines() == [
        HEADER,
        "2675,SENT,2026-01-31,10.10,USD",
        "2676,SENT,,10.10,USD",
        "2677,SENT,2026-01-31,,",
    ]
    assert ended.returncode == 3
    assert "Warning: 5 invoices without an id that can be sent, left out.\n" in ended.stderr
    assert not CUSTOMER.search(ended.stderr)
    assert {request.method for request in server.requests} == {"GET"}


@pytest.mark.parametrize(
    ("moves", "code", "counted", "sentence"),
    [
        pytest.param(
            True,
            0,
            0,
            "Note: the list of SENT changed whenever it was read. Each page was tied to the one before: what "
            "may be missing was created, moved or ended meanwhile. It counts 1,506 now, and 1,505 were "
            "listed.",
            id="always moves",
        ),
        pytest.param(
            False,
            3,
            7,
            "Warning: the service lists fewer SENT invoices than it counts. It counts 1,507 now, and 1,500 "
            "were listed.",
            id="is short",
        ),
    ],
)
def test_a_list_that_never_is_steady_is_written_and_said(
    run_command: RunCommand,
    start_raw_server: StartRawServer,
    simulator: Simulator,
    tmp_path: Path,
    *,
    moves: bool,
    code: int,
    counted: int,
    sentence: str,
) -> None:
    """What was there from the first page to the last is written, once."""
    asked = count()

    def answer(connection: socket.socket, request: RawRequest) -> None:
        new = range(next(asked) if moves else 0)
        ids = [f"new{number}" for number in reversed(new)] + [str(number) for number in range(1500)]
        query = parse_qs(request.target.partition("?")[2])
        offset, limit = int(query["offset"][0]), int(query["limit"][0])
        page = [item(one) for one in ids[offset : offset + limit]]
        send_json(connection, {"totalInvoices": len(ids) + counted, "invoices": page})

    url = start_raw_server(answer).base_url
    arguments = ("list", *SANDBOX, "--base-url", url, "--status", "SENT", "--out", "m.csv")
    ended = run_command(*arguments, env=simulator.env)
    assert (ended.returncode, sentence in ended.stderr) == (code, True), ended.stderr
    listed = [row["id"] for row in read_csv(tmp_path / "m.csv")]
    assert len(set(listed)) == len(listed)
    assert {str(number) for number in range(1500)} <= set(listed)
