"""The exceptions that speak to the user."""


class UserError(Exception):
    """A failure that the user caused and can mend.

    The message is one sentence that names the value, the rule it breaks and the remedy. The
    commands print it alone and exit with status 2; every other exception is a defect of histojax.
    """


class DiskError(UserError):
    """A file that the disk did not take; what was written before is whole."""
