"""``python -m batchcancel`` is the command."""

from batchcancel.cli import main

main()
