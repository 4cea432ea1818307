"""What jsonargparse says of a wrong value, in plain words."""

import re

_KEYS = re.compile(r'(?:Parser key "[^"]+": ?)+')
_UNION = re.compile(r"Does not validate against any of the Union subtypes Subtypes: \[.*?\] Errors: ")
_OTHER_KIND = re.compile(r"- Expected a <class '(?:NoneType|float|int|bool|str)'>\.?(?= (?:- |Given value type)|$) ?")
_GIVEN = re.compile(r" ?Given value type: .*$")
_CHOICE = re.compile(r"Expected a typing\.Literal\[(.*?)\]\. Got value: (.*)")
_KIND = re.compile(r"Expected a <class '(?:\w+\.)*(\w+)'>\. Got value: (.*)")
_OPTION = re.compile(r"Option '([^']*)' is not accepted")


def plain_complaint(text: str) -> str:
    """Shorten what jsonargparse says of a value to the field and what is wrong with it.

    Of a field that may also be absent, or a plain number, it lists why each kind does not fit; only the reason for
    the kind that was meant is kept.

    Args:
        text: its message, of any number of lines.

    Returns:
        One line.
    """
    line = " ".join(text.split())
    union = _UNION.search(line) is not None
    line = _UNION.sub("", line)
    if union:
        shorter = _GIVEN.sub("", _OTHER_KIND.sub("", line)).replace(": - ", ": ").removeprefix("- ").strip()
        line = shorter if shorter.rstrip(": ") else line
    line = _KEYS.sub(
        lambda keys: ".".join(re.findall(r'"([^"]+)"', keys[0])) + ": ", line.replace(": - Parser", ": Parser")
    )
    line = _CHOICE.sub(lambda found: f"{found[2]} is none of {found[1]}", line)
    line = _KIND.sub(lambda found: f"{found[2]} is no {found[1]}", line)
    return _OPTION.sub(lambda found: f"there is no field '{found[1]}'", line)
