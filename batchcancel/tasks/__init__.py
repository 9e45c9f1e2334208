"""What can be done besides a run: a command's work, without its arguments and its output."""
