"""The errors that a user caused and can mend.

Each carries one line that says what is wrong and what to do; the command prints it to standard
error and exits with code 2. Anything else that is raised is a defect of the program.
"""


def printable(text: object) -> str:
    """It in one line: names in a foreign file can hold line breaks, and sequences that command a
    terminal, so what cannot be printed becomes "?"."""
    return "".join(c if c.isprintable() else "?" for c in str(text))


class PerceivioError(Exception):
    """Bad input. As text it is one clear line, whatever a foreign file has put into it."""

    def __str__(self) -> str:
        return printable(super().__str__())


class MediaError(PerceivioError):
    """A media file that cannot be read or written as asked."""
