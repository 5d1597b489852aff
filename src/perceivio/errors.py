"""The errors that a user caused and can mend.

Each carries one line that says what is wrong and what to do; the command prints it to standard
error and exits with code 2. Anything else that is raised is a defect of the program.
"""


class PerceivioError(Exception):
    """Bad input, told in one clear line: names in a foreign file can hold line breaks, and
    sequences that command a terminal, so what cannot be printed becomes "?"."""

    def __init__(self, said: object = "") -> None:
        super().__init__("".join(c if c.isprintable() else "?" for c in str(said)))


class MediaError(PerceivioError):
    """A media file that cannot be read or written as asked."""
