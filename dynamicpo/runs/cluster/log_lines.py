"""The telling lines of a pod's log: those that say why it failed."""

import re
from collections.abc import Sequence

_MAX_CHARACTERS = 600
# Of an error of ours: the first task names every mistake in a run's parameters, a line each.
_MAX_OWN_CHARACTERS = 6000
_MAX_LINES = 40
# The last line of a traceback: an exception's name at the begin of the line.
_EXCEPTION = re.compile(
    r"(?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception|Interrupt|Exit|Failure)(?::\s|$)"
)
# Their messages say all by themselves.
_OWN_ERROR = re.compile(r"dynamicpo\.core\.errors\.\w+: ")
# KFP's driver and launcher write lines as klog does, Argo's helper as logrus.
_KLOG = re.compile(r"(?P<level>[IWEF])\d{4} [\d:.]+\s+\d+ [\w.-]+:\d+\] (?P<text>.*)")
_OF_KFP_OR_ARGO = re.compile(r"[IWEF]\d{4} |time=|Error: exit status ")
_NEW_ENTRY = re.compile(rf"{_OF_KFP_OR_ARGO.pattern}|\[KFP |\d{{4}}-\d\d-\d\d[T ]")
_ONLY_THE_EXIT_CODE = re.compile(r"exit status \d+\W*$")
# The driver puts all its arguments before the reason.
_ARGUMENTS = re.compile(r".*\) failed: ")


def error_in(text: str) -> str:
    """The error that a log ends with, in one line or more; empty where it has none."""
    lines = text.splitlines()
    # The last one: what was caught and logged before is not what ended it.
    for number in range(len(lines) - 1, -1, -1):
        if _EXCEPTION.match(lines[number]):
            return _exception(lines[number:])
    return _klog_error(lines)


def last_line(text: str) -> str:
    """The last line of a log that is none of KFP's or Argo's; empty where there is none."""
    return _last_plain(text.splitlines())


def _exception(lines: Sequence[str]) -> str:
    message = [lines[0]]
    # A message of several lines goes on until the next entry of the log.
    for line in lines[1:_MAX_LINES]:
        if not line.strip() or _NEW_ENTRY.match(line):
            break
        message.append(line)
    text = "\n".join(message)
    if _OWN_ERROR.match(text):
        return _OWN_ERROR.sub("", text, count=1)[:_MAX_OWN_CHARACTERS]
    return text[:_MAX_CHARACTERS]


def _klog_error(lines: Sequence[str]) -> str:
    matches = [_KLOG.match(line) for line in lines]
    errors = [match["text"] for match in matches if match and match["level"] in "EF"]
    if not errors:
        return ""
    error = _ARGUMENTS.sub("", errors[-1])
    if _ONLY_THE_EXIT_CODE.search(error):
        return _last_plain(lines) or error
    # Go puts the cause last.
    return error[-_MAX_CHARACTERS:]


def _last_plain(lines: Sequence[str]) -> str:
    for line in reversed(lines):
        if line.strip() and not _OF_KFP_OR_ARGO.match(line):
            return line.strip()[:_MAX_CHARACTERS]
    return ""
