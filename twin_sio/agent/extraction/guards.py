"""What a model proposes, held against the message. Pure.

A model that is small, or talked into something, proposes what was asked, imagined, quoted, or said of somebody else.
So its word for a kind is not taken: a statement is one where the grammar around the quote says so, the value stands in
the quote, and a well-known slot has the words that go with it ("I live in" for a city).
"""

from __future__ import annotations

import functools
import re
import unicodedata
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

from twin_sio.agent.extraction.clauses import Clause, clauses, is_known_language, is_negated, people, speaks_of_self
from twin_sio.agent.extraction.slots import sensitive_slot
from twin_sio.agent.traits import is_sensitive
from twin_sio.domain import EvidenceKind

Learnt = Literal["explicit", "change", "inferred"]


@dataclass(frozen=True, slots=True)
class Proposal:
    """What a model says that `quote` shows. The key is canonical, `kind` and `polarity` are the model's."""

    key: str
    value: str
    polarity: Literal[1, -1]
    kind: Learnt
    quote: str


def _any(*words: str) -> re.Pattern[str]:
    return re.compile(rf"(?<!\w)(?:{'|'.join(words)})", re.IGNORECASE)


_LIKING: Final = _any(
    r"lov(?:e|ed|ing)\b|lik(?:e|ed|ing)\b|enjoy|prefer|ador|fan of|into\b|favou?rit|passion|hobb|keen|crazy about",
    r"hate|dislike|detest|stand\b|mag\b|liebe|gern|lieb(?:er|ste|lings)|bevorzug|ziehe|hasse|gust|encant|prefier|"
    r"odi[oa]",
    r"(?:j['’]|n['’])?(?:aim|ador)|préfèr|détest|interess|interested|apasion|passionn|begeister|favorit",
)
_DWELLING: Final = _any(
    r"liv(?:e|ing)\b|reside|based\b|moved\b|relocat|settled|home is|my (?:city|town|hometown)|new place",
    r"wohn|lebe\b|gezogen|umgezogen|zuhause|viv[oi]\b|mud[éo]|resid|habite|vis\b|déménag|emménag|install",
)
_CUES: Final[dict[str, re.Pattern[str]]] = {
    "identity.name": re.compile(
        r"(?i:name(?:['’]s)?(?: is)?|call me|called|ich heiße|heisse|name ist|me llamo|nombre es|m['’]appelle|nom est)"
        r" [A-ZÀ-Þ]|^(?:I am|I['’]m|Ich bin|Soy|Je suis) [A-ZÀ-Þ][\w'’-]+(?: [A-ZÀ-Þ][\w'’-]+)?\W*$"
    ),
    "identity.nickname": _any("call me", "nickname", "spitzname", "nenn mich", "apodo", "ll[aá]m[ae]me", "surnom",
    "appel"),
    "identity.pronouns": _any("pronoun", r"\w+/\w+", "pronomen", "pronombre", "pronom"),
    "identity.birthday": _any("birthday", "born", "geb(?:oren|urtstag)", "cumplea", "nac[íi]", "anniversaire", "née?"),
    "identity.age": re.compile(r"(?i)\b\d{1,3}\b.*|turned"),
    "identity.gender": _any("wom[ae]n", "man", "male", "female", "non-?binary", "trans", "frau", "mann", "mujer",
    "hombre"),
    "location.city": _DWELLING,
    "location.country": _DWELLING,
    "location.timezone": _any("time ?zone", r"(?:utc|gmt|cet|est|pst)\b", "zeitzone", "zona horaria", "fuseau"),
    "work.employer": _any(
        r"work(?:ing)? (?:\w+ ){0,4}(?:at|for|with)\b|joined|join|employ|hired|job at|started (?:\w+ )?at|quit|left",
        r"arbeite (?:\w+ ){0,3}(?:bei|für)|angefangen|trabajo (?:\w+ ){0,3}(?:en|para)|"
        r"travaille (?:\w+ ){0,3}(?:chez|pour)",
        r"an? [\w ]{1,60} at\b",
    ),
    "work.role": _any(
        r"(?:i am|i['’]m)(?: \w+)? an?\b|(?:i am|i['’]m) no longer an?\b|work(?:ing)? as|job|became|become|started as|"
        r"promoted|position|profession|role|i do\b|career|titl|ich bin|arbeite als|beruf|geworden|soy\b|"
        r"trabajo (?:como|de)",
        r"je suis|travaille comme|métier|profesión|profession",
    ),
    "work.industry": _any("industry", "work in", "field", "sector", "branche", "sector", "secteur"),
    "family.status": _any(
        "married", "single", "divorced", "engaged", "widow", "verheiratet", "ledig", "geschieden", "verlobt", "casad",
        "solter", "divorcia", "marié", "célibataire", "divorcé",
    ),
    "family.partner": _any(
        "wife", "husband", "partner", "girlfriend", "boyfriend", "spouse", "fianc", "frau", "mann", "freund", "espos",
        "marido", "mujer", "novi[oa]", "femme", "mari", "copine?", "compagn",
    ),
    "family.children": _any("kids?", "child", "sons?", "daughter", "kind", "sohn", "tochter", "hij[oa]", "fils",
    "fille"),
    "language.preferred": _any(
        "speak", "language", "prefer", "answer", "reply", "write", "sprache", "sprech", "antwort", "habl", "idioma",
        "respond", "parl", "langue", "répond",
    ),
    "language.spoken": _any("speak", "fluent", "native", "language", "sprech", "muttersprach", "habl", "idioma",
    "parl"),
    "style.tone": _any("tone", "formal", "casual", "friendly", "answer", "repl", "speak", "talk", "ton", "tono"),
    "style.length": _any("answer", "repl", "respon", "short", "brief", "concise", "detail", "long", "antwort", "kurz"),
    "projects.current": _any(
        r"work(?:ing)? on|build|develop|writ(?:e|ing)|project|creating|making|launch|finish|stopped|arbeite an|"
        r"baue|projekt",
        r"proyecto|trabajando en|construy|desarroll|projet|travaille sur",
    ),
    "food.diet": _any(
        r"(?:i am|i['’]m|went|became|become|gone|no longer|eat|diet|ich bin|esse|ernähr|soy|como\b|je suis|mange|"
        r"dieta|"
        r"used to be|been)",
    ),
    "health.allergy": _any("allerg", "alérg"),
    "interests.likes": _LIKING,
    "goals.current": _any("goal", "aim", "training for", "want", "plan", "ziel", "meta", "objetivo", "objectif",
    "learn"),
}  # fmt: skip
_CATEGORY_CUES: Final[dict[str, re.Pattern[str]]] = {
    "interests": _LIKING,
    "preferences": _LIKING,
    "pets": _any("have", "own", "my", "our", "got", "habe", "mein", "tengo", "mi", "j['’]ai", "mon", "ma", "adopt"),
}
_STATE: Final = _any(
    r"i (?:am|have|own|play|stud|speak|use|work|build|learn|train|collect|read|run|write|drive|eat|drink|cook|"
    r"paint|sing|"
    r"live|grew|come|was born|graduated|teach|prefer|like|love|hate|always|never|usually|often)|i['’](?:m|ve)\b|"
    r"my \w+",
    r"ich (?:bin|habe|spiele|studiere|spreche|nutze|arbeite|lerne|lese|esse|trinke)|soy|tengo|vivo|trabajo|"
    r"estudio|juego",
    r"je suis|j['’](?:ai|étudie|habite|joue|apprends)|mi \w+ (?:es|son)|mein\w* \w+ (?:ist|sind)|mo[ni] \w+ est",
)
_PASSING: Final = _any(
    r"need|want|help|look(?:ing)? (?:for|to)|try(?:ing)? to|wonder|today|tonight|tomorrow|yesterday|right now|"
    r"this morning|"
    r"this (?:week|afternoon|evening|weekend)|last night|just (?:had|ate|saw|watched|read|got back)|feel|tired|"
    r"hungry|sick|"
    r"bored|busy|late|sorry|thank|please|question|problem|issue|error|bug|tell me|show me|give me|recommend|"
    r"suggest|explain|"
    r"here|back|ready|sure|fine|good|okay|happy|sad|angry|stuck|lost|confused|done|afraid|glad|waiting|going",
    r"brauche|hilf|heute|morgen|gestern|müde|bitte|frage|necesito|ayuda|hoy|mañana|ayer|cansad|por favor|besoin|aide|"
    r"aujourd'hui|demain|hier|fatigué|s'il",
)
_CHANGED: Final = _any(
    r"moved|relocat|became|become|now\b|switched|joined|turned|no longer|any ?more|got\b|quit|left|started|stopped|"
    r"these days|recently|used to|changed|promoted|gave up|adopted|just\b|new\b|gezogen|jetzt|inzwischen|"
    r"geworden|nicht mehr|"
    r"mud[éo]|ahora|ya no|dejé|déménag|emménag|maintenant|ne .{0,60} plus|n['’]\w+ plus|devenue?",
)
_OWN_PEOPLE: Final = _any(
    r"my\b|our\b|i\b|i['’]\w+|mein\w*|unser\w*|ich\b|mis?\b|nuestr|tengo|mo[ni]\b|ma\b|mes\b|j['’]"
)


class Message:
    """A user's message, parsed once for all that is proposed of it."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._clauses = clauses(text)
        self._starts = [clause.start for clause in self._clauses]
        self._spans: dict[int, tuple[int, int]] = {}
        for clause in self._clauses:
            start, _ = self._spans.get(clause.sentence, (clause.start, 0))
            self._spans[clause.sentence] = start, clause.end
        self._named: dict[int, list[tuple[int, bool]]] = {}

    @functools.cached_property
    def is_known(self) -> bool:
        """Whether it is of a language that can be judged."""
        return is_known_language(self.text)

    def clause_at(self, at: int) -> int | None:
        """Which clause stands there; None between two."""
        nth = bisect_right(self._starts, at) - 1
        return nth if nth >= 0 and at < self._clauses[nth].end else None

    def __getitem__(self, nth: int) -> Clause:
        return self._clauses[nth]

    def sentence(self, clause: Clause) -> tuple[int, int]:
        """From where to where the sentence of a clause goes."""
        return self._spans[clause.sentence]

    def named(self, clause: Clause) -> list[tuple[int, bool]]:
        """Who is named in the sentence of a clause (`clauses.people`)."""
        if clause.sentence not in self._named:
            self._named[clause.sentence] = people(self.text, *self.sentence(clause))
        return self._named[clause.sentence]


def validated_kind(message: Message, proposed: Proposal) -> EvidenceKind | None:
    """The kind as which the proposal counts; None where the user's own words do not bear it.

    Where the words are of a language that the lists do not know, a grounded statement counts as inferred at most.
    Each clause is judged once, however often the quote stands in it: it takes no longer than the message is long.
    """
    if is_sensitive(proposed.key) and proposed.kind == "inferred":
        return None
    fitting: dict[int, bool] = {}
    for at in _anchors(message.text, proposed):
        nth = message.clause_at(at)
        if nth is None or message[nth].stance != "plain":
            continue
        if not message.is_known:
            return _unjudged(message.text, proposed)
        if nth not in fitting:
            fitting[nth] = _is_fit(message, message[nth], proposed)
        if fitting[nth] and _is_of_self(message, message[nth], proposed, at):
            return _kind(proposed, message[nth])
    return None


def _kind(proposed: Proposal, clause: Clause) -> EvidenceKind:
    if proposed.kind == "change" and not _CHANGED.search(clause.text):
        return "explicit"
    return proposed.kind


def _unjudged(text: str, proposed: Proposal) -> EvidenceKind | None:
    if proposed.polarity < 0 or is_sensitive(proposed.key) or sensitive_slot(text):
        return None
    return "inferred"


def _is_of_self(message: Message, clause: Clause, proposed: Proposal, at: int) -> bool:
    return proposed.key.startswith(("family.", "pets.")) or speaks_of_self(message.named(clause), at)


def _is_fit(message: Message, clause: Clause, proposed: Proposal) -> bool:
    start, end = message.sentence(clause)
    if proposed.key.startswith(("family.", "pets.")) and not _OWN_PEOPLE.search(message.text, start, end):
        return False
    negated = is_negated(clause.text) and proposed.key != "health.allergy"
    return negated == (proposed.polarity < 0) and _fits(proposed, clause.text, message.text[start:end])


def _fits(proposed: Proposal, clause: str, sentence: str) -> bool:
    """Whether the words that go with the slot are there."""
    if is_sensitive(proposed.key) and sensitive_slot(sentence) is None:
        return False
    cue = _CUES.get(proposed.key) or _CATEGORY_CUES.get(proposed.key.partition(".")[0])
    if cue is not None:
        return cue.search(clause) is not None
    return _STATE.search(clause) is not None and _PASSING.search(clause) is None


def _anchors(text: str, proposed: Proposal) -> Iterator[int]:
    """Where, in each place of the quote, the value stands; none where it does not."""
    offset = _offset(proposed.value, proposed.quote)
    if offset is not None:
        yield from (place.start() + offset for place in re.finditer(re.escape(proposed.quote), text))


def _offset(value: str, quote: str) -> int | None:
    """Where the first word of `value` stands in `quote`; None unless every word of it does, in whatever form."""
    if (at := quote.casefold().find(value.casefold())) >= 0 and len(quote.casefold()) == len(quote):
        return at
    spoken = [(found.start(), _plain(found[0])) for found in re.finditer(r"[\w+#]+", quote)]
    places = []
    for word in re.findall(r"[\w+#]+", value):
        plain = _plain(word)
        place = next((at for at, other in spoken if _is_same_stem(plain, other)), None)
        if place is None:
            return None
        places.append(place)
    return places[0] if places else None


def _is_same_stem(word: str, other: str) -> bool:
    """Whether two words may be forms of one ("run", "running"), or the one is short for the other ("ts")."""
    if len(word) <= 2 or len(other) <= 2:
        return word == other or other in _SHORT.get(word, ())
    shared = next((n for n, (a, b) in enumerate(zip(word, other, strict=False)) if a != b), min(len(word), len(other)))
    return shared >= max(3, (min(len(word), len(other)) + 1) // 2) or other in _SHORT.get(word, ())


_SHORT: Final = {
    "typescript": ("ts",),
    "javascript": ("js",),
    "python": ("py",),
    "kubernetes": ("k8s",),
    "york": ("nyc",),
}


def _plain(word: str) -> str:
    return "".join(c for c in unicodedata.normalize("NFKD", word.casefold()) if not unicodedata.combining(c))
