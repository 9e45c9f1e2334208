"""The official SDK in a thread pool: one shared API object, a thread for each request in flight.

Run by a Python that has ``cybersource-rest-client-python``, which may lack everything else.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

from CyberSource import InvoicesApi

from benchmarks.yardsticks.task import read_task, tell


def main() -> None:
    """Cancel every invoice."""
    task = read_task()
    api = InvoicesApi(
        {
            "authentication_type": "jwt",
            "jwt_key_type": "SHARED_SECRET",
            "merchantid": task.merchant_id,
            "merchant_keyid": task.key_id,
            "merchant_secretkey": task.shared_secret,
            "run_environment": "apitest.cybersource.com",  # what is signed
            "IntermediateHost": task.base_url,  # what is called
        }
    )

    def cancel(invoice_id: str) -> bool:
        invoice, status, _ = api.perform_cancel_action(invoice_id)
        return bool(status == 200 and invoice.status == "CANCELED")

    began_at = time.perf_counter()
    with ThreadPoolExecutor(task.concurrency) as threads:
        settled = sum(threads.map(cancel, task.invoice_ids))
    tell(settled=settled, seconds=time.perf_counter() - began_at)


if __name__ == "__main__":
    main()
