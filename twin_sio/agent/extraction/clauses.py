"""How a person says what they say: which of their words are a plain statement about themselves.

Pure, by word lists, in English, German, Spanish and French. It errs on one
side: what may be a question, a daydream, a quotation, a joke or somebody else's life is not taken for a statement.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

LONGEST: Final = 4000
"""Characters of a message that are looked at: who writes more has pasted something."""

Stance = Literal["plain", "question", "hypothetical", "quoted", "ironic", "instruction"]


@dataclass(frozen=True, slots=True)
class Clause:
    """A piece of a message, `start` to `end` of it. `sentence` numbers the sentence that it is a part of."""

    start: int
    end: int
    text: str
    sentence: int
    stance: Stance


def _words(*alternatives: str) -> re.Pattern[str]:
    return re.compile(rf"(?<!\w)(?:{'|'.join(alternatives)})(?!\w)", re.IGNORECASE)


# Runs of signs and of blanks are looked at from their beginning only: from each of their characters it would take the
# square of their length.
_SENTENCE_END: Final = re.compile(r"(?:(?<![.!?…])[.!?…]++[\"'”’»)]*+(?=\s|$)|[。！？]|\n+|;)")
_CLAUSE_END: Final = re.compile(
    r",\s+|:\s+|(?<!\s)\s++[-–—]++\s+|(?<!\s)\s+(?=(?:and|but|so|because|although|though|while|since|und|aber|weil|obwohl|denn|"
    r"y|pero|porque|aunque|et|mais|parce|car|e|ma|mas)\s)",
    re.IGNORECASE,
)
_QUOTED: Final = re.compile(
    r"\"[^\"]*(?:\"|$)|“[^”]*(?:”|$)|„[^“”]*(?:[“”]|$)|«[^»]*(?:»|$)|```.*?(?:```|$)|`[^`\n]*`|^[ \t]*>[^\n]*|"
    r"(?<!\w)['‘](?:[^'’\n]|(?<=\w)['’](?=\w))+['’](?!\w)",
    re.DOTALL | re.MULTILINE,
)

# Of the whole message: once somebody plays, jokes or orders, nothing in it is a plain statement.
_IRONY: Final = re.compile(
    r"(?<!\w)/s(?!\w)|🙄|😏|🙃|\byeah,? right\b|\bas if\b|\bsure,? sure\b|\bjust kidding\b|\bjk\b|\bnot!|\bsarcas\w*|"
    r"\biron(?:y|isch|ically|ique|ía)\b|\bobviously not\b|\blol\b|\bhaha\w*|\bjajaja\w*|\bmdr\b|\bptdr\b|"
    r"\bwho doesn'?t\b|"
    r"\b(?:oh|ah|ach|ay|ja),? (?:great|sure|yes|yeah|yay|joy|wonderful|fantastic|brilliant|lovely|perfect|super|"
    r"toll|klar|"
    r"ja|sí|claro|oui|génial|bien sûr|how|I (?:just )?(?:love|adore))\b|\bof course i (?:love|enjoy|adore)\b|"
    r"\b(?:i )?(?:just|simply|absolutely|so|totally) (?:love|adore|enjoy) (?:it )?(?:when|how|being|getting|"
    r"having|that)\b|"
    r"\bsch?erz\b|\bspaß\b|\bna klar\b|\bna toll\b|\bganz bestimmt\b|\bes broma\b|\bsí,? claro\b|\bqué ilusión\b|"
    r"\bje rigole\b|\bje plaisante\b|\bbien sûr que\b|\bcomme si\b|\bals ob\b|\bcomo si\b|"
    r"\bmy favou?rite thing ever\b",
    re.IGNORECASE,
)
_PLAY: Final = re.compile(
    r"\b(?:pretend|role-?play\w*|imagine|suppose|supposing|hypothetical\w*|let'?s say|say i|what if|"
    r"in my (?:novel|story|"
    r"book|dream)|my (?:character|protagonist|narrator|avatar|alter ego)|play(?:ing)? the (?:part|role)|"
    r"speak(?:ing)? as|"
    r"(?:please|can you|could you) write|^[ \t]*write (?:me )?(?:a|an|the)|stell dir vor|angenommen|nehmen wir an|"
    r"mal angenommen|mein(?:e)? (?:figur|charakter)|"
    r"imagin[ae](?:mos|te)?|supongamos|supón|imaginez|imaginons|supposons|mon personnage|mi personaje|"
    r"(?<!i )translate|übersetze|traduce|traduis|for example|e\.g\.|zum beispiel|por ejemplo|par exemple|lyrics|"
    r"as a joke)\b",
    re.IGNORECASE,
)
_ORDERS: Final = re.compile(
    r"\b(?:ignore|disregard|forget|override|bypass) (?:\w+ ){0,3}(?:previous|prior|above|earlier|instruction\w*|"
    r"rules?|"
    r"guidelines?|prompt|everything)|\bsystem ?(?:prompt|message|note|override)|^[ \t]*[^\w\n]{0,8}(?:system|assistant|"
    r"developer|admin|tool)"
    r"\b\W*[:>\]]|</?\s*(?:system|user|assistant|instructions?|memory|profile|im_start|im_end)\b|\[/?inst\]|<\||"
    r"\bdeveloper mode\b|"
    r"\bjailbreak\w*|\b(?:the|this|that) user(?:'s)?\b|\b(?:user|my|your|the) (?:profile|memory|traits?|memories)\b|"
    r"\b(?:confidence|trait|evidence)\s*(?:=|:|to|of)\s*[\d.]+|\bremember (?:this )?(?:as|about) (?:a )?(?:fact|"
    r"the user)|"
    r"\b(?:store|save|record|write|add|append|inject|insert|set|mark|note|remember)\b[^.!?\n]{0,40}\b(?:profile|"
    r"memory|memories|"
    r"trait\w*|fact|facts|database|confirmed|verified)\b|\bvergiss (?:alle|die|deine)|\bignorier\w*|"
    r"\bignora (?:todas|las|tus)|"
    r"\bolvida (?:todas|las|tus)|\bignore[zr]? (?:toutes|les|tes)|\boublie[zr]? (?:toutes|les|tes)|"
    r"\bmein profil\b|\bmi perfil\b|"
    r"\bmon profil\b|\"(?:key|value|kind|candidates|polarity)\"\s*:",
    re.IGNORECASE | re.MULTILINE,
)
# Of a sentence.
_IF: Final = _words(
    "if", "unless", "whether", "wenn", "falls", "ob", "si", "ojalá", "se", "als ich", "in case", "whenever", "once i",
    "i dream(?:ed|t)?", "i dreamt that", "ich träum\\w*", "soñé", "j'ai rêvé", "when i grow up", "when i was",
    "als kind", "cuando era", "quand j'étais", "quand je serai", "in another life", "one day", "someday",
    "eines tages",
    "algún día", "un jour",
)  # fmt: skip
_REPORTED: Final = _words(
    "(?:he|she|they|you|we|everyone|everybody|people|somebody|someone|who) (?:always |often |just |"
    "once )?(?:says?|said|"
    "thinks?|thought|claims?|claimed|believes?|believed|told|tells?|asks?|asked|writes?|wrote|insists?|joked?s?|"
    "calls?)",
    "(?:boss|mother|mom|mum|father|dad|sister|brother|wife|husband|friend|colleague|partner|doctor|teacher|"
    "neighbou?r|"
    "\\w+'s) (?:always |often |just |once )?(?:says?|said|thinks?|thought|claims?|claimed|believes?|told|asked|"
    "wrote|insists?)",
    "according to", "quote",
    "the (?:song|line|sign|shirt|book|film|movie|poem|ad|article|email|letter) (?:says|goes|said)",
    "(?:er|sie|man|chef|mutter|vater|freund|freundin|schwester|bruder|kollege|kollegin) "
    "(?:sagt|sagte|meint|meinte|behauptet|glaubt|denkt|findet|schrieb)", "laut",
    "(?:dice|dijo|dicen|cree|creen|piensa|según|escribió)",
    "(?:dit|disent|pense|pensent|croit|prétend) qu(?:e|['’]\\w+)", "selon",
    "i (?:was|am|'m) (?:told|asked|quoting|reading|singing|acting)", "autocorrect",
)  # fmt: skip
_ASKS: Final = re.compile(
    r"^\W*(?:(?:and|but|so|well|hey|hi|ok(?:ay)?|und|y|et),?\s+)?(?:what|who|where|when|why|how|which|whose|do|"
    r"does|did|is|are|am|"
    r"was|were|can|could|would|should|shall|will|have|has|may|might|was|wer|wo|wann|warum|wie|welche\w*|bin|ist|"
    r"sind|kann|"
    r"kannst|soll|hast|habe|qué|quién|dónde|cuándo|por qué|cómo|cuál|est-ce|que|qui|où|quand|pourquoi|comment|"
    r"quel\w*)\b",
    re.IGNORECASE,
)
# Of a clause.
_MAYBE: Final = _words(
    "would", "\\w+'d", "could", "might", "i may", "maybe", "perhaps", "probably", "possibly", "should", "shall",
    "will",
    "\\w+'ll", "wish", "hope", "hoping", "want to", "wanna", "going to", "gonna", "plan(?:ning)? (?:to|on)",
    "think(?:ing)? (?:about|of)", "consider(?:ing)?", "almost", "nearly", "tempted", "i guess", "not sure",
    "as a kid",
    "pretending", "supposed to", "need to be", "must be", "trying to be", "feel like", "like to think", "i think",
    "(?:am |'m )?moving to", "würde", "wäre", "hätte", "könnte", "möchte", "vielleicht", "wahrscheinlich", "werde",
    "will",
    "sollte", "quizás?", "tal vez", "podría", "sería", "viviría", "gustaría", "quiero", "quisiera", "voy a",
    "encantaría", "preferiría", "casi", "peut-être", "pourrais", "serais", "aurais", "voudrais", "aimerais", "vais",
    "veux", "préférerais", "presque",
)  # fmt: skip

_NEGATED: Final = _words(
    "not", "\\w+n['’]t", "dont", "cant", "never", "no longer", "no", "none", "hate", "dislike", "detest", "stopped",
    "quit", "gave up", "left", "used to", "any ?more", "without", "neither", "nor", "allergic", "can't stand",
    "cannot",
    "nicht", "kein\\w*", "nie", "niemals", "hasse", "aufgehört", "nunca", "ya no", "odio", "dejé", "detesto",
    "ne", "n['’]\\w+", "pas", "jamais", "déteste", "arrêté", "non",
)  # fmt: skip
_PEOPLE: Final = (
    "sister|brother|mother|mom|mum|father|dad|parents?|wife|husband|son|daughter|kids?|child(?:ren)?|friends?|"
    "boyfriend|"
    "girlfriend|partner|boss|manager|colleagues?|coworkers?|co-worker|neighbou?rs?|roommate|flatmate|uncle|aunt|"
    "cousins?|"
    "grandm\\w+|grandf\\w+|grandparents|teacher|doctor|team|client|customer|landlord|therapist|dog|cat|"
    "schwester|bruder|mutter|mama|vater|papa|eltern|frau|mann|sohn|tochter|kinder|freund\\w*|chef\\w*|kolleg\\w+|"
    "nachbar\\w*|onkel|tante|oma|opa|hund|katze|lehrer\\w*|"
    "hermano|hermana|madre|padre|mamá|papá|esposa|esposo|marido|mujer|hij[oa]s?|amig[oa]s?|novi[oa]|jef[ea]|"
    "vecin[oa]|"
    "prim[oa]|abuel[oa]|t[íi][oa]|perro|gato|"
    "sœur|soeur|frère|mère|père|femme|mari|fils|fille|enfants?|amie?s?|copine?|patron|voisine?|oncle|cousine?|"
    "chien|chat"
)
_SELF: Final = _words(
    "i", "i['’](?:m|ve|d|ll)", "ive", "myself", "call me",
    f"(?:my|mine)(?! (?:\\w+ )?(?:{_PEOPLE})(?!\\w))", "we", "we['’]re", "our",
    "ich", "mir", "mich", f"mein(?:e[nmrs]?)?(?! (?:{_PEOPLE})(?!\\w))", "wir",
    "yo", f"mi(?! (?:{_PEOPLE})(?!\\w))", "me (?:gusta\\w*|encanta\\w*|llamo|mud\\w+|interesa\\w*|dedico)", "soy",
    "vivo", "trabajo", "prefiero", "tengo", "estoy", "odio", "hablo",
    "je", "j['’]\\w+", "m['’]\\w+", f"mo[ni](?! (?:{_PEOPLE})(?!\\w))", f"ma(?! (?:{_PEOPLE})(?!\\w))", "mes",
)  # fmt: skip
_OTHER: Final = _words(
    f"(?:my|our|mein(?:e[nmrs]?)?|mis?|mon|ma|mes|his|her|their|the|your) (?:\\w+ )?(?:{_PEOPLE})",
    "(?:a|one) (?:\\w+ )?(?:friend|colleague|cousin|neighbou?r|coworker)", "ein(?:e|en)? (?:freund|kolleg)\\w*",
    "un[ea]? (?:amig[oa]|amie?|coll[eè]gue|primo)",
    "he", "she", "they", "him", "them", "his", "hers?", "their", "you", "your", "who", "whose", "everyone", "people",
    "er", "sie", "ihr", "ihm", "du", "dein\\w*", "él", "ella", "ellos", "ellas", "tú", "su", "usted",
    "il", "elle", "ils", "elles", "lui", "leurs?", "tu", "ton", "vous", "qui", "quien",
)  # fmt: skip
_KNOWN: Final = _words(
    "the", "is", "am", "i", "my", "to", "of", "in", "it", "you", "a", "and", "ich", "ist", "der", "die", "das",
    "und", "bin",
    "nicht", "el", "la", "que", "es", "en", "de", "y", "mi",
    "me (?:gusta\\w*|encanta\\w*|llamo|mud\\w+|interesa\\w*|dedico)", "soy", "vivo", "je", "le", "les", "est",
    "et", "mon", "pas",
    "j['’]\\w+", "no",
)  # fmt: skip


def clauses(text: str) -> tuple[Clause, ...]:
    """The clauses of a message in their order, none empty, each with how it is meant."""
    text = text[:LONGEST]
    whole = _of_the_message(text)
    quoted = [found.span() for found in _QUOTED.finditer(text)]
    sentences = enumerate(_pieces(text, 0, len(text), _SENTENCE_END, keep=True))
    return tuple(
        Clause(begin, end, text[begin:end], number, whole or stance)
        for number, (start, stop) in sentences
        for begin, end, stance in _of_a_sentence(text, start, stop, quoted)
    )


def _of_the_message(text: str) -> Stance | None:
    if _ORDERS.search(text):
        return "instruction"
    if _IRONY.search(text):
        return "ironic"
    return "hypothetical" if _PLAY.search(text) else None


def _of_a_sentence(
    text: str, start: int, stop: int, quoted: list[tuple[int, int]]
) -> Iterator[tuple[int, int, Stance]]:
    sentence = text[start:stop]
    reported, imagined = _REPORTED.search(sentence), _IF.search(sentence)
    asks = sentence.rstrip(" \"'”’»)").endswith(("?", "？")) or "¿" in sentence
    asks_throughout = asks and _ASKS.match(sentence)
    pieces = list(_pieces(text, start, stop, _CLAUSE_END, keep=False))
    for begin, end in pieces:
        clause = text[begin:end]
        stance: Stance = "plain"
        if reported or _is_in(quoted, begin, end):
            stance = "quoted"
        elif imagined or _MAYBE.search(clause):
            stance = "hypothetical"
        elif asks_throughout or (asks and end == pieces[-1][1]) or _ASKS.match(clause):
            stance = "question"
        yield begin, end, stance


def _is_in(spans: list[tuple[int, int]], begin: int, end: int) -> bool:
    """Whether `begin` to `end` has something in common with one of the spans, which stand in their order."""
    after = bisect_right(spans, begin, key=lambda span: span[1])
    return after < len(spans) and spans[after][0] < end


def _pieces(text: str, start: int, end: int, border: re.Pattern[str], *, keep: bool) -> Iterator[tuple[int, int]]:
    """The spans between borders without outer space; `keep`: each with the border that ends it."""
    at = start
    for found in [*border.finditer(text, start, end), None]:
        stop, after = (end, end) if found is None else (found.end() if keep else found.start(), found.end())
        begin = at
        while begin < stop and text[begin].isspace():
            begin += 1
        while stop > begin and text[stop - 1].isspace():
            stop -= 1
        if begin < stop:
            yield begin, stop
        at = after


def people(text: str, start: int, end: int) -> list[tuple[int, bool]]:
    """Who is named in the sentence `start` to `end`, and where: the writer (true), or somebody else."""
    return sorted(
        [(found.start(), True) for found in _SELF.finditer(text, start, end)]
        + [(found.start(), False) for found in _OTHER.finditer(text, start, end)]
    )


def speaks_of_self(named: list[tuple[int, bool]], at: int) -> bool:
    """Whether, in a sentence that names these `people`, it is the writer of whom the words at `at` are said.

    The nearest one named before decides; where nobody is, the first one named after.
    """
    nearest = bisect_right(named, at, key=lambda one: one[0]) - 1
    return bool(named) and named[max(0, nearest)][1]


def is_negated(text: str) -> bool:
    """Whether there is a word in `text` that says no, or that something has ended."""
    return _NEGATED.search(text) is not None


def is_known_language(text: str) -> bool:
    """Whether the word lists can judge `text`: whether they know any of its small words."""
    return _KNOWN.search(text) is not None
