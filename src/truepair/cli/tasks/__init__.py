"""Downstream tasks on the command line, one module a task; each has a ``COMMAND``."""
