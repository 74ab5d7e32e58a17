"""The two kinds of failure a user meets, each shown as one line without a traceback."""


class UserError(Exception):
    """What the user asked for cannot be done as asked: found before any work starts; exit code 2."""


class RunError(Exception):
    """Something went wrong later: a download, a disk, a diverged run; exit code 1."""
