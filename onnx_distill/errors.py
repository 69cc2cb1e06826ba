"""The one exception for everything a user can put right."""


class InputError(Exception):
    """Something given from outside cannot be used; the message says what was found, what was wanted and what to do.

    The command line prints it as one line and exits with code 2.
    """
