"""The pure parts of many hosts: shares of a quota, the lease, and what travels."""

from __future__ import annotations

import random
import string

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from batchcancel.cluster.lease import HEARTBEAT_EVERY_S, HEARTBEAT_TIMEOUT_S, LEASE_S, Lease
from batchcancel.cluster.messages import Account, Conditions, Shard, ShardReport
from batchcancel.cluster.packing import (
    FULL_BYTES,
    MOST_ROWS,
    Answer,
    Ask,
    Packer,
    pack,
    unpack_answers,
    unpack_asks,
)
from batchcancel.cluster.shares import Shares, window_for
from batchcancel.model import ManifestRow, MatchField, Reason, ResolvedBy, Result, Standing

WARNED_AT = 256 * 1024
REFUSED_AT = 2 * 1024 * 1024
"""What Temporal makes of a payload of so many bytes."""
ID_ALPHABET = string.ascii_letters + string.digits + "._-"


# --- shares ---------------------------------------------------------------------------------------


@given(
    most=st.integers(1, 32),
    rate=st.one_of(st.none(), st.floats(0.1, 5000)),
    concurrency=st.integers(1, 500),
)
def test_shares_together_never_exceed_what_was_asked_for(
    most: int, rate: float | None, concurrency: int
) -> None:
    """Even where the worst second of all limiters is the same one; a lone shard paces as a run does."""
    shares = Shares(most, rate=rate, concurrency=concurrency)
    share = shares.next()
    assert 1 <= shares.window <= most
    assert share.concurrency * shares.window <= concurrency
    if rate is None:
        assert share.rate is None
    elif shares.window == 1:
        assert share.rate == rate
    else:
        assert share.rate is not None
        assert (1.1 * share.rate + 1) * shares.window <= 1.1 * rate + 1e-6
        assert share.rate * shares.window >= 0.9 * rate


@pytest.mark.parametrize(
    ("most", "rate", "concurrency", "window"),
    [
        pytest.param(8, None, 16, 8, id="no rate"),
        pytest.param(8, None, 3, 3, id="little concurrency"),
        pytest.param(8, 20.0, 16, 2, id="low rate"),
        pytest.param(8, 15.0, 16, 1, id="rate for one"),
        pytest.param(8, 0.5, 16, 1, id="hardly any rate"),
        pytest.param(8, 400.0, 16, 8, id="high rate"),
    ],
)
def test_window_is_no_wider_than_the_quota_allows(
    most: int, rate: float | None, concurrency: int, window: int
) -> None:
    """A share of less than ten a second would be lost to the margin."""
    assert window_for(most, rate=rate, concurrency=concurrency) == window


@pytest.mark.parametrize("rate", [None, 400.0, 60.0])
def test_each_merchant_has_its_rate_in_all_shards_together(rate: float | None) -> None:
    """Every shard of the window may hold rows of the same merchant."""
    shares = Shares(8, rate=rate, merchant_rate=45.0, concurrency=16)
    share = shares.next()
    assert shares.window == 4
    assert share.merchant_rate is not None
    assert (1.1 * share.merchant_rate + 1) * shares.window <= 1.1 * 45 + 1e-6


def test_a_low_rate_for_each_merchant_is_for_one_shard_alone() -> None:
    """It is that shard's in full."""
    shares = Shares(8, rate=400.0, merchant_rate=5.0, concurrency=16)
    assert (shares.window, shares.next().merchant_rate) == (1, 5.0)


def test_a_refusal_lowers_the_share_of_merchants_that_have_rates_of_their_own() -> None:
    """All together are not slowed down to what one merchant is left with, and it comes back by itself."""
    shares = Shares(4, rate=None, merchant_rate=60.0, concurrency=16)
    even = shares.next()
    shares.learn(5.0)
    assert (shares.next().rate, shares.next().merchant_rate) == (None, 5.0)
    for _ in range(20):
        shares.learn(None)
    assert shares.next() == even


def test_later_shards_start_lower_after_a_refusal_and_recover() -> None:
    """A 429 concerns everyone who shares the quota; a shard without one lets the next go faster."""
    shares = Shares(4, rate=200.0, concurrency=16)
    even = shares.next().rate
    assert even is not None
    shares.learn(20.0)
    assert shares.next().rate == 20.0
    assert shares.is_cut
    shares.learn(None)
    assert shares.next().rate == pytest.approx(22.0)
    for _ in range(20):
        shares.learn(None)
    assert shares.next().rate == even
    assert not shares.is_cut
    shares.set_rate(40.0)
    assert shares.next().rate == pytest.approx(10 - 1 / 1.1)


def test_refusals_bound_shards_where_no_rate_was_set() -> None:
    """The service's limit is found by each shard alone, and remembered for the next."""
    shares = Shares(2, rate=None, concurrency=16)
    shares.learn(50.0)
    assert shares.next().rate == 50.0
    for _ in range(100):
        shares.learn(None)
    assert shares.next().rate is None


# --- lease ----------------------------------------------------------------------------------------


def test_lease_ends_before_anyone_else_begins() -> None:
    """Whoever holds a shard next starts only after Temporal's own time-out."""
    assert LEASE_S + HEARTBEAT_EVERY_S <= HEARTBEAT_TIMEOUT_S


def test_lease_begins_with_the_first_confirmed_heartbeat_and_ends_by_itself() -> None:
    """It counts from when a heartbeat was sent, for nobody knows when it was recorded."""
    now = 100.0
    lease = Lease(lambda: now)
    assert not lease.holds
    lease.renew(sent_at=99.5)
    assert lease.left_s == pytest.approx(LEASE_S - 0.5)
    now = 103.0
    lease.renew(sent_at=102.0)
    now = 105.9
    assert lease.holds
    now = 106.0
    assert not lease.holds


def test_lease_that_is_over_stays_over() -> None:
    """A frozen worker wakes up, and a heartbeat that was under way is confirmed: the shard is another's."""
    now = 0.0
    lease = Lease(lambda: now)
    lease.renew(sent_at=0.0)
    now = 60.0
    lease.renew(sent_at=59.9)
    assert not lease.holds
    other = Lease(lambda: now)
    other.renew(sent_at=60.0)
    other.end()
    assert other.left_s == 0.0
    other.renew(sent_at=60.0)
    assert not other.holds


# --- what travels ---------------------------------------------------------------------------------


def result(number: int, *, message: str | None = None) -> Result:
    """Make a worker's result."""
    return Result(
        row=number,
        invoice_id="2675",
        outcome=Reason.CANCELED.outcome,
        reason=Reason.CANCELED,
        resolved_by=ResolvedBy.RESPONSE,
        invoice_status="CANCELED",
        http_status=200,
        attempts=1,
        amount="2623.64",
        balance="0.00",
        currency="USD",
        correlation_id="4963015972176007901546",
        submitted_at="2026-11-26T20:41:21Z",
        at="2026-11-26T20:41:21.123Z",
        latency_ms=118.2,
        message=message,
    )


def test_an_answer_becomes_the_very_row_that_a_run_would_write() -> None:
    """The coordinator adds what it knows of the row itself, and the kept columns that never travelled."""
    row = ManifestRow(row=9, invoice_id="2675", file="a.csv", keep={"customer": "Ada"})
    packer = Packer()
    packer.add(Answer.of(result(41, message="no")))
    packed = packer.packed()
    assert b"Ada" not in packed
    (answer,) = unpack_answers(packed)
    assert answer.number == 41
    assert answer.result_for(row) == replace(result(9, message="no"), file="a.csv", keep={"customer": "Ada"})


@pytest.mark.parametrize(
    ("ask", "standing"),
    [
        pytest.param(Ask(7, "2675"), Standing.TO_ASK, id="plain"),
        pytest.param(Ask(7, "2675", is_in_doubt=True), Standing.TO_LOOK_UP, id="in doubt"),
        pytest.param(Ask(7, "2675", match={MatchField.TOTAL: "1.00"}), Standing.TO_ASK, id="to match"),
    ],
)
def test_an_invoice_arrives_as_it_was_sent(ask: Ask, standing: Standing) -> None:
    """With what a look-up has to come first for."""
    (arrived,) = unpack_asks(pack([ask]))
    assert arrived == ask
    assert (arrived.row.row, arrived.row.standing, arrived.row.match) == (7, standing, ask.match)


def test_what_is_packed_so_far_can_be_had_at_any_time() -> None:
    """Each heartbeat carries all answers, and costs only the new ones."""
    packer = Packer()
    assert unpack_answers(packer.packed()) == []
    assert unpack_answers(b"") == []
    for number in range(50):
        packer.add(Answer.of(result(number)))
        if number % 7 == 0:
            assert [answer.number for answer in unpack_answers(packer.packed())] == list(range(number + 1))
    assert packer.count == len(unpack_answers(packer.packed())) == 50


def test_payloads_stay_below_temporal_s_limits() -> None:
    """Ids of 64 random characters, every answer with a message: warned of never, refused by far not."""
    chance = random.Random(8)  # noqa: S311 - test data
    ids = ["".join(chance.choices(ID_ALPHABET, k=64)) for _ in range(MOST_ROWS)]
    asks = pack(Ask(number, invoice_id, is_in_doubt=True) for number, invoice_id in enumerate(ids))
    assert len(asks) < WARNED_AT / 4
    merchants = ["".join(chance.choices(ID_ALPHABET, k=128)) for _ in range(MOST_ROWS)]
    of_each = pack(Ask(number, ids[number], merchant_id=one) for number, one in enumerate(merchants))
    assert len(of_each) < WARNED_AT, "each row of another merchant, with the longest name there may be"
    usual, worst = Packer(), Packer()
    raw = 0
    for number in range(MOST_ROWS):
        numbers = "".join(chance.choices(string.digits, k=22))
        usual.add(Answer.of(replace(result(number), correlation_id=numbers, latency_ms=chance.random())))
        text = "".join(chance.choices(string.printable[:94], k=200))
        raw += worst.add(Answer.of(replace(result(number, message=text), correlation_id=numbers)))
    assert len(usual.packed()) < WARNED_AT / 4
    assert len(worst.packed()) < WARNED_AT
    assert raw < FULL_BYTES
    assert FULL_BYTES * 2 < REFUSED_AT, "even if nothing could be compressed"


def test_messages_of_another_version_can_be_read() -> None:
    """A newer one adds fields, which an older one ignores; an older one leaves out what has a default."""
    shard = Shard(
        number=1,
        account=Account(env="test", host="h", merchant_id="m"),
        conditions=Conditions(
            timeout=30,
            max_attempts=5,
            max_outage=600,
            max_errors=None,
            max_error_rate=50,
            max_mismatch=None,
            ledger_began_at="t",
        ),
        rows=b"\x00",
        count=1,
        rate=None,
        concurrency=2,
    )
    fields = msgspec.to_builtins(shard, builtin_types=(bytes,))
    newer = msgspec.msgpack.encode(fields | {"of_a_later_version": [1]})
    del fields["is_canary"]
    assert msgspec.msgpack.decode(newer, type=Shard) == shard
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(fields), type=Shard) == shard
    assert msgspec.msgpack.decode(msgspec.msgpack.encode({}), type=ShardReport) == ShardReport()
