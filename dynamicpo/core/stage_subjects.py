"""The first line of a stage's log: what it is about, where a loop runs the same stage many times.

Logs of a loop's tasks are alike otherwise, and so are the tasks' names.
"""

import logging
import re

log = logging.getLogger(__name__)

_MARK = "this task is about"
# Behind whatever the program that runs the stage puts before its lines.
_LINE = re.compile(rf"(?:^|[\s:]){_MARK} (?P<subject>\S.*)$", re.MULTILINE)


def announce(subject: str) -> None:
    """Log what the stage is about: an objective, or the cell of a study."""
    log.info("%s %s", _MARK, subject)


def subject_in(text: str) -> str:
    """The subject that a stage's log names; empty where it names none."""
    match = _LINE.search(text)
    return match["subject"].strip() if match else ""
