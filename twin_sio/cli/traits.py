"""How a trait reads in a terminal."""

from __future__ import annotations

from twin_sio.domain import Json


def value_of(trait: Json) -> str:
    """A trait's value, and whose it is: "football (of Mia, daughter)"; somebody as "Mia (daughter)"; of what the user
    denies "not kids"."""
    said = _of_whom(str(trait.get("value")), trait.get("entity") or {})
    return f"not {said}" if trait.get("denied") else said


def _of_whom(value: str, entity: Json) -> str:
    name, relation = str(entity.get("name") or ""), str(entity.get("relation") or "")
    low = value.casefold()
    if name and low == name.casefold():
        return f"{value} ({relation})" if relation else value
    of = ", ".join(part for part in (name, relation) if part)
    is_theirs = bool(of) and not any(part and part.casefold() in low for part in (name, relation))
    return f"{value} (of {of})" if is_theirs else value


def line_of(trait: Json) -> str:
    """`key = value`, with what was said of the time, and when it was over."""
    until = (
        f" until {str(trait['valid_to'])[:10]}" if trait.get("status") == "superseded" and "valid_to" in trait else ""
    )
    when = f" ({trait['when']})" if trait.get("when") else ""
    return f"{trait.get('key')} = {value_of(trait)}{until}{when}"
