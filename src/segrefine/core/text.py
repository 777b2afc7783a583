"""Make text safe for terminals and logs. Names of files and classes come from others and may hold terminal commands."""

import logging
import re
import sys

# Control characters (ESC begins ANSI sequences) except tab and newline, changes of the writing direction, which hide
# text, and lone surrogates, which no terminal accepts.
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    r"""Return the text with unprintable characters as escapes, such as \x1b for ESC."""
    return _UNPRINTABLE.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


class PrintableFormatter(logging.Formatter):
    """The formatter of `conf/hydra/job_logging`."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


class TerminalHandler(logging.StreamHandler):
    """Writes to the current `sys.stderr`: a progress bar puts a stream there that writes above the bar."""

    def emit(self, record: logging.LogRecord) -> None:
        self.setStream(sys.stderr)
        super().emit(record)
