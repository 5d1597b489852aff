"""The errors that a user caused and can mend.

Each carries one line that says what is wrong and what to do; the command prints it to standard
error and exits with code 2. Anything else that is raised is a defect of the program.
"""


class PerceivioError(Exception):
    """Bad input, told in one clear line."""


class MediaError(PerceivioError):
    """A media file that cannot be read or written as asked."""
