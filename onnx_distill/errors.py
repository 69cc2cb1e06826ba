"""The one exception for everything a user can put right."""


class InputError(Exception):
    """Something given from outside cannot be used; the message says what was found, what was wanted and what to do.

    The command line prints it as one line and exits with code 2.
    """


def first_line(error: BaseException) -> str:
    """What another library's error says, in one line; its type where it says nothing (onnx's checker can)."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
