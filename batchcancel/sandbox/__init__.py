"""A simulator of the invoicing API: it checks every signature, keeps state and can misbehave on demand.

It shares no code with the client, so that an error of the client's can't hide in its own test. Facts
that the service documents are marked [D], facts read in its official clients [S], and what had to be
assumed [A].

An unknown invoice comes into being when its id is first seen, and the id's prefix says how:

======================  ===============  ==============================================================
prefix                  status           what happens
======================  ===============  ==============================================================
(any other)             SENT             can be canceled
``PAID-``               PAID             the cancelation is refused with 400
``PARTIAL-``            PARTIAL          refused with 400
``CANCELED-``           CANCELED         refused with 400; its history dates the CANCEL a week ago
``PENDING-``            PENDING          refused with 400
``PENDING-PAID-``       PENDING          refused with 400; PAID one second after it was first seen
``DRAFT-``              DRAFT            can be canceled
``CREATED-``            CREATED          can be canceled
``MISSING-``            none             404
``UNKNOWNSTATUS-``      ARCHIVED         a status that is not documented; refused with 400
``LAPSED-``             SENT             first cancelation 400, later ones work
``ERROR500-``           SENT             every request 500, nothing is done
``ERROR502-ONCE-``      SENT             first cancelation 502, nothing is done
``FORBIDDEN-``          SENT             every request 403, nothing is done
``UNAUTHORIZED-ONCE-``  SENT             first request 401 although it was signed well
``THROTTLE-``           SENT             first cancelation 429, like one of the limit
``HTML-``               SENT             every cancelation 200 with an HTML page, nothing is done
``MISMATCH-``           SENT             every cancelation 200 CANCELED for another id, nothing is done
``RESET-BEFORE-``       SENT             first cancelation: connection reset, nothing is done
``RESET-AFTER-``        SENT             canceled, then the connection is reset
``EMPTY-``              SENT             canceled, 200 with an empty body
``TRUNCATED-``          SENT             canceled, 200 with a body that is cut short
``WRONGTYPE-``          SENT             canceled, 200 with text that is no JSON
``SLOW-``               SENT             canceled, the reply takes ``slow_ms``
``HANG-``               SENT             canceled, no reply for two minutes, then a reset
======================  ===============  ==============================================================

Look-ups answer truthfully throughout, unless the table says "every request". Faults by share, rate
limit, outage and clock come from `SandboxOptions`.

Requests are signed with a shared secret, which is published, or with the key of a certificate that
`SandboxOptions.keys` holds; with such keys, messages are encrypted both ways. Those are in
`batchcancel.sandbox.keys` and made by `batchcancel.sandbox.throwaway`, which are not imported here: they
load a library of cryptography. Every merchant of a portfolio has invoices of its own.
"""

from __future__ import annotations

from batchcancel.sandbox.options import (
    SANDBOX_KEY_ID,
    SANDBOX_MERCHANT_ID,
    SANDBOX_PORTFOLIO_ID,
    SANDBOX_SECRET,
    SandboxOptions,
)
from batchcancel.sandbox.server import Sandbox

__all__ = [
    "SANDBOX_KEY_ID",
    "SANDBOX_MERCHANT_ID",
    "SANDBOX_PORTFOLIO_ID",
    "SANDBOX_SECRET",
    "Sandbox",
    "SandboxOptions",
]
