"""The one exception that a user is meant to read."""


class SeqmtlError(Exception):
    """Bad input: what is wrong and what to do about it, in words.

    The command line prints the message without a traceback and exits with 1 (`debug=true` shows the traceback).
    """
