"""Settings in, a running job out: wires the real parts together, for library and command alike."""

from batchcancel.job.job import Job

__all__ = ["Job"]
