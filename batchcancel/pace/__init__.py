"""When the next request may leave: rate, concurrency, Retry-After, the key in doubt, outage."""

from batchcancel.pace.lane import Pace
from batchcancel.pace.limiter import RateLimiter
from batchcancel.pace.quota import Quota

__all__ = ["Pace", "Quota", "RateLimiter"]
