"""What a run must never do: show what is secret, leave files open to others, be led by an id."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
import socket
import stat
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

if TYPE_CHECKING:
    from tests.acceptance.conftest import ReadLedger, RunCommand
    from tests.conftest import RawRequest, RawServer, StartRawServer

SECRET: Final = bytes(range(7, 39))
PROXY_PASSWORD: Final = "proxy-pa55word"
PRIVATE: Final = {
    "name": "Erika Mustermann-Gabler",
    "company": "Gabler Naturkost OHG",
    "email": "erika.gabler@naturkost.example",
    "phone": "+49 30 901820-77",
    "card": "4111 1111 1111 1111",
    "street": "Heidestrasse 17b",
    "item": "Zwei Kisten Boskoop",
    "link": "https://pay.example/i/8f3c1d",
}
"""What the service knows of a customer, and a run never writes down."""
KEY: Final = {
    "BATCHCANCEL_MERCHANT_ID": "some_merchant",
    "BATCHCANCEL_KEY_ID": "08c94330-f618-42a3-b09d-e1e43be5efda",
    "BATCHCANCEL_SHARED_SECRET": base64.b64encode(SECRET).decode(),
}
INPUTS: Final = {"batchcancel.toml", "invoices.csv", "crash.py"}
LEDGER: Final = "invoices.sandbox.ledger.jsonl"
_TARGET: Final = re.compile(r"/invoicing/v2/invoices/([^/?]+)(/cancelation)?")


def reply(fields: object, status: str = "200 OK", *headers: str) -> bytes:
    """Write a JSON reply."""
    body = json.dumps(fields).encode()
    return (
        "\r\n".join([f"HTTP/1.1 {status}", *headers, f"Content-Length: {len(body)}", "", ""]).encode() + body
    )


# --- nothing leaks ------------------------------------------------------------------------------------


def invoice(invoice_id: str, status: str) -> dict[str, Any]:
    """Describe an invoice with everything about its customer."""
    return {
        "id": invoice_id,
        "status": status,
        "message": f"Dear {PRIVATE['name']}, thank you.",
        "customerInformation": {name: PRIVATE[name] for name in ("name", "company", "email", "phone")},
        "orderInformation": {
            "amountDetails": {"totalAmount": "10.10", "currency": "EUR"},
            "lineItems": [{"productName": PRIVATE["item"], "unitPrice": "10.10"}],
            "billTo": {"address1": PRIVATE["street"]},
        },
        "invoiceInformation": {"paymentLink": PRIVATE["link"], "invoiceNumber": invoice_id},
    }


def talk(connection: socket.socket, request: RawRequest) -> None:
    """Answer as a service that tells all it knows, and echoes what it was sent, wherever it can."""
    sent = dict(line.split(": ", 1) for line in request.head.splitlines()[1:])
    token = sent.get("Authorization") or sent.get("Signature", "")
    message = f"{token} refused; write to {PRIVATE['email']}, {PRIVATE['phone']}, card {PRIVATE['card']}"
    echo = (f"v-c-correlation-id: {token}", f"Set-Cookie: customer={PRIVATE['email']}", f"X-Echo: {token}")
    found = _TARGET.fullmatch(request.target)
    kind, is_post = (found[1].partition("-")[0], found[2] is not None) if found else ("LIST", False)
    refused = {"status": "INVALID_REQUEST", "message": message, "details": [PRIVATE]}
    if not found:
        said = reply({"invoices": [invoice("1", "SENT")]}, f"200 {PRIVATE['name']}", *echo)
    elif kind == "HTML":
        page = f"<html>{message} {PRIVATE['name']}</html>".encode()
        said = b"HTTP/1.1 502 Bad\r\nContent-Length: %d\r\n\r\n%b" % (len(page), page)
    elif kind in {"404", "500"} or (kind in {"400", "403"} and is_post):
        said = reply(refused, f"{kind} {PRIVATE['name']}", *echo)
    elif kind == "LONG":
        said = reply(refused | {"message": "x " * 90 + token}, "404 Not Found", *echo)
    elif kind == "STATUS":
        said = reply(invoice(found[1], PRIVATE["email"]), "200 OK", *echo)
    else:
        said = reply(invoice(found[1], "CANCELED" if is_post else "PAID"), "200 OK", *echo)
    connection.sendall(said)


def refuse(connection: socket.socket, request: RawRequest) -> None:
    """Refuse the key, or a proxy's user, and echo both."""
    status = "407 Proxy Authentication Required" if request.method == "CONNECT" else "401 Unauthorized"
    connection.sendall(reply({"message": request.head, **PRIVATE}, status, f"X-Echo: {PRIVATE['name']}"))


def needles(servers: list[RawServer]) -> dict[str, str]:
    """Name every text that must not be found, tokens that were really sent among them."""
    encoded = base64.b64encode(SECRET).decode()
    found = {
        "secret": encoded,
        "secret, url-safe": base64.urlsafe_b64encode(SECRET).decode().rstrip("="),
        "secret, hex": SECRET.hex(),
        "secret, as Python shows it": repr(SECRET)[2:-1],
        "proxy password": PROXY_PASSWORD,
        "proxy credentials": base64.b64encode(f"user:{PROXY_PASSWORD}".encode()).decode(),
        "beginning of a token": "eyJ",
        "word before a token": "Bearer",
        "signature header": 'signature="',
        **PRIVATE,
    }
    sent = [line for server in servers for request in server.requests for line in request.head.splitlines()]
    tokens = [line for line in sent if line.startswith(("Authorization: ", "Signature: "))]
    assert len(tokens) > 20
    for token in tokens:
        for piece in re.findall(r"[\w+/=-]{32,}", token):
            if piece != KEY["BATCHCANCEL_KEY_ID"]:
                found[f"piece of {token[:60]}"] = piece
    return found


EVERYTHING: Final = (
    *("--log-level", "debug", "--log-format", "json", "--progress", "json", "--json", "--keep", "note"),
    *("--max-attempts", "1", "--timeout", "5", "--max-outage", "1", "--ref", "T-1"),
)
CRASH: Final = """
import sys
import batchcancel.api.signing as signing
import batchcancel.model as model
from batchcancel.cli import main

def broken(self, *, method, target, host, body, now):
    secret, self_again = self._secret, self
    raise RuntimeError("a defect while signing")

if sys.argv[1] == "signing":
    signing.JwtSigner.headers = broken
else:
    model.Tally.is_conserved = property(lambda self: False)
main(sys.argv[2:])
"""


def test_nothing_secret_or_private_is_in_any_file_or_stream(
    run_command: RunCommand,
    start_raw_server: StartRawServer,
    clean_environment: dict[str, str],
    tmp_path: Path,
) -> None:
    """Everything is switched on, and whatever can go wrong goes wrong; then every byte written is read."""
    kinds = ("OK", "400", "403", "404", "500", "HTML", "LONG", "STATUS")
    rows = [
        [f"{kind}-{number}", PRIVATE["name"], PRIVATE["email"], "n"] for kind in kinds for number in (1, 2)
    ]
    _write_csv(tmp_path / "invoices.csv", [["invoice_id", "customer", "email", "note"], *rows])
    (tmp_path / "crash.py").write_text(CRASH, encoding="utf-8")
    (tmp_path / "tmp").mkdir()
    server, refusing = start_raw_server(talk), start_raw_server(refuse)
    config = [f'{name.removeprefix("BATCHCANCEL_").lower()} = "{value}"' for name, value in KEY.items()]
    config.append(f'proxy = "http://user:{PROXY_PASSWORD}@127.0.0.1:{refusing.port}"')
    (tmp_path / "batchcancel.toml").write_text("\n".join(config), encoding="utf-8")
    (tmp_path / "batchcancel.toml").chmod(0o600)
    env = {"TMPDIR": str(tmp_path / "tmp"), "PYTHONFAULTHANDLER": "1"}
    here = ("--env", "sandbox", "--base-url", server.base_url)
    shown: dict[str, str] = {}

    def run(name: str, code: int, *arguments: str, **more: str) -> None:
        ended = run_command("run", *arguments, *EVERYTHING, env=env | more)
        shown[f"{name}, standard output"], shown[f"{name}, standard error"] = ended.stdout, ended.stderr
        assert ended.returncode == code, (name, ended.stderr)
        assert "Traceback" not in ended.stderr

    run("log on standard error", 3, "invoices.csv", *here)
    ledger = tmp_path / LEDGER
    ledger.write_bytes(ledger.read_bytes()[:-40])
    run("log in a file, torn tail", 3, "invoices.csv", *here, "--log-file", "run.log")
    assert (tmp_path / f"{LEDGER}.torn").exists()
    run("signature", 3, "invoices.csv", *here, "--ledger", "signature", BATCHCANCEL_AUTH="http_signature")
    wrong = (
        "--env",
        "sandbox",
        "--base-url",
        refusing.base_url,
        "--ledger",
        "wrong-key",
        "--log-file",
        "log2",
    )
    run("wrong key", 4, "invoices.csv", *wrong)
    real = ("--env", "production", "--base-url", "https://192.0.2.1", "--yes")  # reserved, and never reached
    run("proxy that refuses", 4, "invoices.csv", *real, "--ledger", "proxy")
    gone = f"http://user:{PROXY_PASSWORD}@127.0.0.1:9"
    run("proxy that is not there", 4, "invoices.csv", *real, "--ledger", "no-proxy", BATCHCANCEL_PROXY=gone)
    run("secret that is no base64", 2, "invoices.csv", *here, BATCHCANCEL_SHARED_SECRET=f"!{PROXY_PASSWORD}")
    run("proxy that is no URL", 2, "invoices.csv", *real, BATCHCANCEL_PROXY=f"user:{PROXY_PASSWORD}")
    for defect in ("signing", "conservation"):
        ended = subprocess.run(
            [
                *(sys.executable, "-X", "dev", "crash.py", defect),
                *("run", "invoices.csv", *here, *EVERYTHING, "--ledger", defect),
            ],
            env=clean_environment | env,
            cwd=tmp_path,
            capture_output=True,
            encoding="utf-8",
            timeout=60,
            check=False,
        )
        assert (ended.returncode, "Traceback" in ended.stderr) == (1, True), ended.stderr
        shown[f"{defect}, standard output"], shown[f"{defect}, standard error"] = ended.stdout, ended.stderr
    written = [path for path in tmp_path.rglob("*") if path.is_file() and path.name not in INPUTS]
    assert {LEDGER, f"{LEDGER}.torn", "run.log", "log2", "proxy"} <= {path.name for path in written}
    texts = shown | {path.name: path.read_bytes().decode(errors="backslashreplace") for path in written}
    leaks = [
        f"{what} in {where}"
        for what, needle in needles([server, refusing]).items()
        for where, text in texts.items()
        if needle in text
    ]
    assert not leaks
    assert all(json.loads(line)["event"] for line in (tmp_path / "run.log").read_text().splitlines())


def _write_csv(path: Path, rows: list[list[str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)


# --- files --------------------------------------------------------------------------------------------


def mode(path: Path) -> int:
    """Read a file's permissions."""
    return stat.S_IMODE(path.stat().st_mode)


def tear(ledger: Path) -> bytes:
    """Cut the last bytes of a ledger off, as a crash would; return what is left."""
    ledger.write_bytes(ledger.read_bytes()[:-40])
    return ledger.read_bytes()


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """Write a manifest of one invoice."""
    path = tmp_path / "invoices.csv"
    path.write_text("invoice_id\n2675\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("umask", [0o000, 0o777], ids=["open", "strict"])
def test_files_are_private_and_usable_whatever_the_umask(
    command_path: Path, clean_environment: dict[str, str], manifest: Path, umask: int
) -> None:
    """Ledger, torn tail and log are made with mode 0600, no more and no less."""
    folder = manifest.parent
    # A child that measures itself would leave files that nobody can read.
    env = {name: value for name, value in clean_environment.items() if not name.startswith("COVERAGE_")}
    for _ in range(2):
        ended = subprocess.run(
            [
                command_path,
                "run",
                manifest.name,
                "--env",
                "sandbox",
                "--log-file",
                "log",
                "--log-level",
                "debug",
            ],
            env=env | {"PYTHONDONTWRITEBYTECODE": "1"},
            cwd=folder,
            umask=umask,
            capture_output=True,
            encoding="utf-8",
            timeout=60,
            check=False,
        )
        assert ended.returncode == 0, ended.stderr
        tear(folder / LEDGER)
    assert [mode(folder / name) for name in (LEDGER, f"{LEDGER}.torn", "log")] == [0o600] * 3


def test_spool_of_standard_input_is_private_and_unnamed(
    command_path: Path, clean_environment: dict[str, str], tmp_path: Path
) -> None:
    """While the manifest comes in, its copy has mode 0600 and no name; afterwards there is none."""
    with subprocess.Popen(
        [command_path, "run", "-", "--format", "txt", "--env", "sandbox", "--ledger", LEDGER],
        env=clean_environment,
        cwd=tmp_path,
        umask=0,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        assert process.stdin is not None
        process.stdin.write(b"2675\n")
        process.stdin.flush()
        give_up_at = time.monotonic() + 20
        while not (modes := _modes_of_unnamed_files(process.pid, tmp_path)):
            assert time.monotonic() < give_up_at, "nothing is spooled"
            time.sleep(0.01)
        process.stdin.close()
        assert process.wait(30) == 0
    assert modes == [0o600]
    assert [path.name for path in tmp_path.iterdir()] == [LEDGER]


def _modes_of_unnamed_files(pid: int, folder: Path) -> list[int]:
    unnamed = []
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            if str(entry.readlink()).startswith(str(folder)) and entry.stat().st_nlink == 0:
                unnamed.append(mode(entry))
        except FileNotFoundError:
            continue  # closed meanwhile
    return unnamed


def test_link_to_a_ledger_is_followed(run_command: RunCommand, manifest: Path, tmp_path: Path) -> None:
    """A ledger may lie on another disk: rows go there, and the link stays one."""
    (tmp_path / "disk").mkdir()
    target, link = tmp_path / "disk" / "ledger", tmp_path / "link"
    assert run_command("run", manifest, "--env", "sandbox", "--ledger", target).returncode == 0
    link.symlink_to(target)
    before = target.stat().st_size
    assert run_command("run", manifest, "--env", "sandbox", "--ledger", link).returncode == 0
    assert link.is_symlink()
    assert target.stat().st_size > before


def test_link_to_nothing_is_refused(run_command: RunCommand, manifest: Path, tmp_path: Path) -> None:
    """Nothing is made where somebody's link leads."""
    (tmp_path / "link").symlink_to(tmp_path / "planted")
    ended = run_command("run", manifest, "--env", "sandbox", "--ledger", "link")
    assert (ended.returncode, "link to nothing" in ended.stderr) == (6, True)
    assert not (tmp_path / "planted").exists()


def test_ledger_in_a_folder_of_everyone_is_private(
    run_command: RunCommand, manifest: Path, tmp_path: Path
) -> None:
    """As in /tmp: the file is the run's own."""
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    assert run_command("run", manifest, "--env", "sandbox", "--ledger", shared / "ledger").returncode == 0
    assert mode(shared / "ledger") == 0o600


def test_link_in_the_place_of_the_torn_tail_is_not_followed(
    run_command: RunCommand, manifest: Path, tmp_path: Path
) -> None:
    """Somebody's link must not lead rows into another file; the tail is not cut either."""
    assert run_command("run", manifest, "--env", "sandbox").returncode == 0
    ledger, victim = tmp_path / LEDGER, tmp_path / "victim"
    torn = tear(ledger)
    victim.write_text("untouched", encoding="utf-8")
    (tmp_path / f"{LEDGER}.torn").symlink_to(victim)
    ended = run_command("run", manifest, "--env", "sandbox")
    assert ended.returncode == 6, ended.stderr
    assert (ledger.read_bytes(), victim.read_text(encoding="utf-8")) == (torn, "untouched")


# --- hostile ids --------------------------------------------------------------------------------------

VALID: Final = (
    *("2675", "00042", "A", "a..b", "a.", "a...", "a-", "a_", "a--b", "1E5", "0x10", "null", "true", "NaN"),
    *("con", "cancelation", "Z" * 64, "0.1", "1.2.3.4", "index.html", "a.b-c_d", "v2"),
)
"""Strange, and yet ids by the alphabet: each is sent as the one segment that it is."""
HOSTILE: Final = (
    # traversal, plain, encoded, doubly encoded, overlong, full width
    *(
        ".",
        "..",
        "...",
        "../",
        "../../v1/payments",
        "..\\..\\x",
        "a/../b",
        "a/..",
        "/etc/passwd",
        "//evil.example",
    ),
    *(
        "..%2fx",
        "%2e%2e",
        "%2e%2e%2fx",
        "%252e%252e%252f",
        "..%c0%af",
        "..%5cx",
        "a%2Fb",
        "a%00b",
        "%31",
        "%",
    ),
    *("\uff0e\uff0e\uff0fx", "a\u2215b", "a\u2044b", "a\u29f8b", "\u2025/x", "a\uff0fb"),
    # other places
    *("?limit=1", "a?x=1", "#a", "a#b", "a;b", "a;jsessionid=1", "a&b", "a=b", "a:b", "\\\\evil\\x", "a\\b"),
    *(
        "http://evil.example/",
        "https://evil.example",
        "//evil@x",
        "@evil.example",
        "a@evil.example",
        "user:p@h",
    ),
    *("file:///etc/passwd", "[::1]", "a/cancelation", "2675/", "/2675", "a//b"),
    # header and line injection, control characters, terminals
    *("a\r\nX-Injected: 1", "a\nGET / HTTP/1.1", "a\rb", "a\tb", "a\x00b", "a\x0bb", "a\x0cb", "a\x1bb"),
    *("a\x1b[2J", "a\x1b]0;title\x07", "a\x7fb", "a\x85b", "a\x9b2Jb", "a\x08\x08b", "a\u2028b", "a\u2029b"),
    # letters that are not what they seem
    *(
        "a\u202eb",
        "\u2066a\u2069",
        "a\u200bb",
        "a\u200db",
        "a\ufeffb",
        "a\u00adb",
        "a\u0301",
        "\u0430",
        "\u212a",
    ),
    *("\uff12\uff16", "\u0662\u0666", "\u00b2", "a\U000e0041b", "\U0001f4a9", "\u0130", "a\u00a0b", "a b"),
    # spreadsheets, shells, other languages
    *(
        '=HYPERLINK("http://evil.example";"x")',
        "=1+1",
        "+1",
        "-1",
        "-x",
        "_x",
        "@SUM(A1)",
        ".a",
        "~a",
        "12345.0",
    ),
    *(
        "1.23E+15",
        "$(id)",
        "`id`",
        "a|b",
        "a>b",
        "a<b>",
        "a'b",
        'a"b',
        'a"},{"x',
        "*",
        "a*",
        "!a",
        "{a}",
        "[a]",
    ),
    *("' OR 1=1 --", "${jndi:ldap://x}", "{{7*7}}", "a,b", "%s%n", "--yes", "--ledger=x"),
    # too long
    *("y" * 65, "w" * 300, "a" + "/.." * 1000, "b\u0301" * 500),
)
assert len(set(HOSTILE)) == len(HOSTILE) > 100


def as_csv(ids: list[str]) -> str:
    """Write a table, every cell quoted; a cell of a million characters would be refused as endless."""
    text = io.StringIO()
    csv.writer(text, quoting=csv.QUOTE_ALL).writerows([["invoice_id", "note"], *([id_, "n"] for id_ in ids)])
    return text.getvalue()


def as_jsonl(ids: list[str]) -> str:
    """Write objects, and ids of other types at the end."""
    others = ["1.5", "-7", "[1]", '{"a":1}', "true", "null", f'"{"u" * 1_000_000}"']
    return "".join(f'{{"invoice_id":{text}}}\n' for text in [*map(json.dumps, ids), *others])


def as_txt(ids: list[str]) -> str:
    """Write a line each, those that would be two lines left out."""
    return "".join(f"{id_}\n" for id_ in ids if not set("\r\n") & set(id_)) + "t" * 1_000_000 + "\n"


@pytest.mark.parametrize("write", [as_csv, as_jsonl, as_txt], ids=["csv", "jsonl", "txt"])
def test_no_id_reaches_another_place_or_moves_a_terminal(
    run_command: RunCommand,
    start_raw_server: StartRawServer,
    read_ledger: ReadLedger,
    tmp_path: Path,
    write: Any,
) -> None:
    """Only ids of the alphabet are sent, each as one segment; the others are recorded, made harmless."""

    def answer(connection: socket.socket, request: RawRequest) -> None:
        found = _TARGET.fullmatch(request.target)
        connection.sendall(reply({"id": found[1], "status": "CANCELED"} if found else {}))

    server = start_raw_server(answer)
    # Good neighbours before, between and behind, and each hostile one next to a valid one.
    ids = [text for number, hostile in enumerate(HOSTILE) for text in (hostile, VALID[number % len(VALID)])]
    name = f"ids.{write.__name__.removeprefix('as_')}"
    (tmp_path / name).write_text(write(ids), encoding="utf-8", newline="")
    ended = run_command(
        *("run", name, "--env", "sandbox", "--base-url", server.base_url, "--ledger", "ledger"),
        *("--log-file", "log", "--log-level", "debug"),
        env=KEY,
    )
    assert ended.returncode == 3, ended.stderr
    sent = Counter((request.method, request.target) for request in server.requests)
    assert sent == {
        ("GET", "/invoicing/v2/invoices?offset=0&limit=1"): 1,
        **{("POST", f"/invoicing/v2/invoices/{valid}/cancelation"): 1 for valid in VALID},
    }
    assert not any("X-Injected" in request.head for request in server.requests)
    rows = [record for record in read_ledger(tmp_path / "ledger") if record["type"] == "result"]
    outcomes = {
        reason: {row["invoice_id"] for row in rows if row["reason"] == reason}
        for reason in ("canceled", "invalid_id")
    }
    assert outcomes["canceled"] == set(VALID)
    hostile = [id_ for id_ in HOSTILE if write is not as_txt or not set("\r\n") & set(id_)]
    assert len(outcomes["invalid_id"]) == len(hostile) + {as_csv: 0, as_jsonl: 7, as_txt: 1}[write]
    assert len(rows) == sum(map(len, outcomes.values()))
    assert all(len(recorded) <= 256 and recorded.isprintable() for recorded in outcomes["invalid_id"])
    shown = (tmp_path / "ledger", tmp_path / "log")
    for text in (ended.stdout, ended.stderr, *(path.read_text(encoding="utf-8") for path in shown)):
        assert all(char.isprintable() or char == "\n" for char in text)
