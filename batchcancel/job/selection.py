"""Which invoices of the manifests a run asks about: what earlier runs found, and what is excluded."""

from __future__ import annotations

from batchcancel.ledger import History
from batchcancel.model import Outcome, Reason, Standing, id_of_key
from batchcancel.settings import RetryErrors


class Selection:
    """Where each invoice stands before a run."""

    def __init__(self, history: History, *, retry_errors: RetryErrors, excluded: frozenset[str]) -> None:
        """Prepare.

        Args:
            history: What the ledger knows.
            retry_errors: Which errors of earlier runs are asked about again.
            excluded: Valid ids that are never touched, whoever's invoices they are.
        """
        self._history = history
        self._retry_errors = retry_errors
        self._excluded = excluded

    def standing_of(self, key: str) -> Standing:
        """Tell where an invoice stands, by ``ManifestRow.key``.

        An answer that is there already counts more than an exclusion: nothing is asked either way. An error
        of an earlier run is held back where its invoice is excluded by now: it has no answer still.
        """
        reason = self._history.latest_reason(key)
        if reason is not None and self._is_settled(reason):
            return Standing.SETTLED
        is_excluded = id_of_key(key) in self._excluded
        if reason is None:
            return Standing.EXCLUDED if is_excluded else Standing.TO_ASK
        if is_excluded or self._retry_errors is RetryErrors.NONE:
            return Standing.HELD_BACK
        return Standing.TO_LOOK_UP if reason is Reason.UNKNOWN else Standing.TO_ASK

    def _is_settled(self, reason: Reason) -> bool:
        if self._retry_errors is RetryErrors.ALL and reason.outcome is Outcome.ERROR:
            return False
        return reason.is_final
