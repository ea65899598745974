"""The canonical slot and value of what was found, whichever extractor found it and whatever it was called.

Names are compared, never meanings: two slots are one where a table says so. What looks alike ("tea over coffee",
"coffee over tea") can be the opposite.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from dataclasses import dataclass
from typing import Final

from twin_sio.agent.traits import is_sensitive, normal

KEY: Final = re.compile(r"[a-z][a-z0-9_]{0,31}\.[a-z][a-z0-9_]{0,63}")
_SLUG: Final = 28  # characters of one side of a comparison: two and `_vs_` fit into a key


@dataclass(frozen=True, slots=True)
class Slot:
    """Where something belongs and what it is called there. `flipped`: to hold it is to hold the opposite there."""

    key: str
    value: str
    flipped: bool = False


def _table(text: str) -> dict[str, str]:
    pairs = (line.split(":") for line in text.strip().splitlines())
    return {alias: canonical.strip() for canonical, aliases in pairs for alias in aliases.split()}


_CATEGORIES: Final = _table("""
    identity: user personal person profile bio self demographics name
    work: job career occupation profession employment professional
    location: home residence address place
    interests: interest hobby hobbies like likes dislike dislikes activities
    preferences: preference
    projects: project
    goals: goal
    family: relationship relationships relatives
    pets: pet animals
    food: diet dietary nutrition
    language: languages
    faith: religion religious spirituality belief beliefs
    politics: political
    sexuality: sexual
    health: medical medicine
    style: communication
""")

_KEYS: Final = _table("""
    identity.name: identity.first_name identity.full_name identity.firstname identity.is identity.called
    identity.birthday: identity.birthdate identity.date_of_birth identity.born
    identity.origin: location.origin location.from location.hometown identity.hometown identity.nationality
    location.city: location.home location.residence location.current location.current_city location.lives_in
    location.city: location.living location.town location.location location.lives identity.city identity.location
    location.city: identity.lives_in identity.residence identity.home
    location.country: identity.country location.current_country
    location.timezone: identity.timezone
    work.role: work.title work.job_title work.position work.job work.occupation work.profession work.current_role
    work.role: work.work work.career identity.job identity.occupation identity.profession identity.role identity.title
    work.role: identity.job_title
    work.employer: work.company work.organization work.organisation work.workplace work.works_at identity.employer
    work.employer: work.current_employer
    work.industry: work.field work.sector
    projects.current: projects.name projects.working_on projects.current_project projects.project work.project
    projects.current: projects.active projects.building work.projects work.current_project goals.project
    interests.likes: interests.like interests.love interests.loves interests.enjoys interests.hobby interests.hobbies
    interests.likes: interests.interest interests.interests interests.favorite interests.favourite interests.general
    interests.likes: preferences.likes preferences.like preferences.loves preferences.favorite preferences.favourite
    interests.likes: food.likes food.favorite food.preference music.likes music.favorite interests.passion
    interests.likes: preferences.general preferences.preference
    interests.dislikes: interests.dislike interests.hates interests.hate preferences.dislikes preferences.dislike
    interests.dislikes: preferences.hates food.dislikes food.dislike music.dislikes
    food.diet: food.type food.restriction food.restrictions food.dietary health.diet identity.diet preferences.diet
    health.condition: health.illness health.disease health.diagnosis health.disorder health.status health.conditions
    health.condition: identity.health identity.condition
    health.allergy: health.allergies food.allergy food.allergies identity.allergy
    faith.religion: faith.faith faith.affiliation faith.is identity.religion identity.faith
    politics.view: politics.views politics.opinion politics.affiliation politics.leaning identity.politics
    politics.party: politics.vote politics.votes
    sexuality.orientation: identity.orientation identity.sexual_orientation identity.sexuality sexuality.identity
    family.status: family.marital_status family.relationship_status identity.marital_status identity.status
    family.partner: family.wife family.husband family.spouse family.girlfriend family.boyfriend
    family.children: family.kids family.child family.sons family.daughters
    language.spoken: language.speaks language.known language.native identity.languages identity.language
    style.length: style.brevity style.answer_length preferences.answer_length style.detail
""")

_FLIPPED: Final = {"interests.dislikes": "interests.likes"}

_VALUES: Final = {
    "js": "JavaScript",
    "ts": "TypeScript",
    "py": "Python",
    "golang": "Go",
    "k8s": "Kubernetes",
    "postgres": "PostgreSQL",
    "nyc": "New York",
    "javascript": "JavaScript",
    "typescript": "TypeScript",
}

_ARTICLES: Final = re.compile(
    r"(?:an?|the|some|my|ein(?:e[nmrs]?)?|de[rnms]|das|die|un[ae]?|el|los?|las?|les?|du|des|mein(?:e[nmrs]?)?)\s+"
    r"(?=\S)|l['’](?=\S)",
    re.IGNORECASE,
)
_FILLERS: Final = re.compile(
    r"[\s,]+(?:now(?:adays)?|too|as well|a lot|very much|so much|any ?more|anyway|again|these days|the most|at all|"
    r"though|best|jetzt|auch|sehr|gerade|ahora|también|mucho|aujourd'hui|aussi|beaucoup|maintenant)$",
    re.IGNORECASE,
)

_SENSITIVE_WORDS: Final[dict[str, re.Pattern[str]]] = {
    "health.condition": re.compile(
        r"\b(?:asthm\w*|diabet\w*|cancer\b|krebs\b|cáncer|depress\w*|anxiety|adhd|adhs|autis\w*|epilep\w*|"
        r"migr(?:aine|än)\w*|"
        r"hiv\b|arthrit\w*|bipolar\w*|schizo\w*|ptsd|hypertens\w*|c(?:o)?eliac|zöliakie|insomnia|eczema|psoriasis|"
        r"multiple sclerosis|crohn\w*|allerg\w*|alérgic\w*|diagnos\w*|illness\w*|disease\w*|disorder\w*|syndrome\w*|"
        r"chronic\w*|medication\w*|therap(?:y|ie)|pregnan\w*|schwanger|embarazada|enceinte|krank\w*|enfermedad|"
        r"maladie)",
        re.IGNORECASE,
    ),
    "faith.religion": re.compile(
        r"\b(?:muslim\w*|moslem\w*|islam\w*|christian\w*|christ(?:in)?\b|cristian\w*|chrétien\w*|catholic\w*|"
        r"católic\w*|"
        r"catholique|katholi\w*|protestant\w*|evangelisch|orthodox\w*|jew(?:ish|s)?\b|jüdisch|jude|judí[oa]|"
        r"juif|juive|"
        r"hindu\w*|buddhis\w*|budista|bouddhiste|atheis\w*|ateo|atea|athée|agnosti\w*|mormon\w*|sikh\w*|quran|"
        r"religio\w*|pray(?:er|s)?\b)",
        re.IGNORECASE,
    ),
    "politics.view": re.compile(
        r"\b(?:socialis\w*|communis\w*|conservative\b|konservativ\w*|republican\w*|democrats?\b|libertarian\w*|"
        r"left[- ]wing|right[- ]wing|labou?r party|green party|tory|tories|liberals?\b|spd|cdu|afd|vox|psoe|"
        r"vot(?:e|ed|es|ing)\b|"
        r"wähle\b|vot[oé]\b|politic\w*)",
        re.IGNORECASE,
    ),
    "sexuality.orientation": re.compile(
        r"\b(?:gay|lesbian\w*|lesbisch|lesbiana|lesbienne|bi(?:sexual\w*)|homosexual\w*|heterosexual\w*|asexual\w*|"
        r"pansexual\w*|queer|schwul|sexual\w*)\b",
        re.IGNORECASE,
    ),
}


def canonical(key: str, value: str) -> Slot | None:
    """The slot that `key` and `value` name; None where the key is none or nothing is left of the value.

    A sensitive value under an everyday name comes back under its sensitive one: what a slot is called must not decide
    whether it is guarded. A comparison under any name (`x_vs_y`, `y_over_x`) is the one slot of the two.
    """
    key = key.strip().lower()
    if not KEY.fullmatch(key):
        return None
    category, name = key.split(".")
    value = tidy(value)
    if not value:
        return None
    if category.startswith("preference") and (sides := re.fullmatch(r"(\w+?)_(?:vs|over|versus|than|to)_(\w+)", name)):
        return _compared_by_key(value, *sides.groups())
    disliked = category in ("dislike", "dislikes")
    key = f"{_CATEGORIES.get(category, category)}.{name}"
    key = "interests.dislikes" if disliked else _KEYS.get(key, key)
    if not is_sensitive(key):
        key = sensitive_slot(value) or key
    return Slot(_FLIPPED.get(key, key), value, key in _FLIPPED)


def comparison(preferred: str, other: str) -> Slot | None:
    """The slot of two things compared, with the preferred one as its value; None where they are one thing.

    Its name is the same whichever is preferred: `preferences.javascript_vs_typescript`.
    """
    value = tidy(preferred)
    one, two = sorted((_slug(value), _slug(tidy(other))))
    return None if one == two or "" in (one, two) else Slot(f"preferences.{one}_vs_{two}", value)


def _compared_by_key(value: str, one: str, two: str) -> Slot | None:
    sides = {_slug(tidy(side.replace("_", " "))) for side in (one, two)}
    if _slug(value) not in sides or len(sides) != 2:
        return None
    return comparison(value, (sides - {_slug(value)}).pop())


def tidy(value: str) -> str:
    """`value` without what does not belong to it: quotes, articles, trailing fillers; the usual name of a short one."""
    value = " ".join(unicodedata.normalize("NFC", value).split()).strip(" \t.,;:!?\"'“”„«»()[]…")
    while True:
        shorter = _FILLERS.sub("", _ARTICLES.sub("", value, count=1) if _ARTICLES.match(value) else value)
        if shorter == value:
            return _VALUES.get(normal(value), value)
        value = shorter


def same_value(one: str, other: str) -> bool:
    """Whether two values are one: also where the one only says more ("coffee", "black coffee")."""
    first, second = normal(tidy(one)).split(), normal(tidy(other)).split()
    short, long = sorted((first, second), key=len)
    return any(long[at : at + len(short)] == short for at in range(len(long) - len(short) + 1))


def sensitive_slot(text: str) -> str | None:
    """The sensitive slot that the words of `text` belong to; None for everyday words."""
    return next((key for key, words in _SENSITIVE_WORDS.items() if words.search(text)), None)


def _slug(value: str) -> str:
    plain = unicodedata.normalize(
        "NFKD", value.casefold().replace("ß", "ss").replace("+", " plus ").replace("#", " sharp ")
    )
    plain = "".join(each for each in plain if not unicodedata.combining(each))
    slug = re.sub(r"[^a-z0-9]+", "_", plain).strip("_")
    letters = sum(each.isalnum() for each in plain)
    if letters and (len(slug) > _SLUG or not slug[:1].isalpha() or sum(map(str.isalnum, slug)) < letters):
        return "x" + hashlib.sha256(normal(value).encode()).hexdigest()[:12]
    return slug
