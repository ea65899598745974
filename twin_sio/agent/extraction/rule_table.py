"""The patterns of the rules, by language."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

_LEAD: Final = (
    r"(?i:(?:and|but|so|well|also|actually|yes|yeah|no|ok|okay|hi|hey|hello|honestly|btw|fyi|by the way|then|because|"
    r"since|although|though|(?:please )?remember(?: that)?|please note that|these days|nowadays|currently|now|today|"
    r"in (?:19|20)\d\d|last \w+|this \w+|as of today|"
    r"und|aber|also|ja|nein|übrigens|weil|denn|inzwischen|jetzt|y|pero|sí|porque|ahora|desde hoy|bueno|hola|"
    r"et|mais|oui|car|maintenant|bonjour|salut|désormais)\s+)*"
)
_PLACE: Final = (
    r"(?P<value>[A-ZÀ-ÞŁŚŠŽ][\w'’-]*(?:\.? (?:[A-ZÀ-ÞŁŚŠŽ][\w'’-]+|(?:de|del|la|am|an der|sur|upon|"
    r"do) (?=[A-ZÀ-Þ])))*)"
)
_NAME: Final = r"(?P<value>[A-ZÀ-ÞŁŚŠŽ][\w'’-]+(?: [A-ZÀ-ÞŁŚŠŽ][\w'’-]+){0,2})"
_THING: Final = r"(?P<value>[^\s,;:!?]+(?: [^\s,;:!?]+){0,3}?)"
_ONE: Final = r"(?P<value>[^\s,;:!?]+(?: [^\s,;:!?]+){0,2}?)"
_TWO: Final = r"(?P<other>[^\s,;:!?]+(?: [^\s,;:!?]+){0,2}?)"
_LONG: Final = r"(?P<value>[^\s,;:!?]+(?: [^\s,;:!?]+){0,6}?)"
_TAIL: Final = (
    r"(?i:\s+(?:now|nowadays|these days|too|as well|a lot|very much|so much|any ?more|again|anyway|today|"
    r"at the moment|"
    r"right now|since \w+|this (?:year|month|week|spring|summer)|last (?:year|month|week|spring|summer|fall|winter)|"
    r"in (?:spring|summer|fall|autumn|winter|(?:19|20)\d\d|january|february|march|april|may|june|july|august|"
    r"september|"
    r"october|november|december)|jetzt|auch|sehr|gerade|mehr|gezogen|umgezogen|ahora|también|mucho|el (?:año|"
    r"mes) pasado|"
    r"aujourd'hui|maintenant|aussi|beaucoup|plus|l'année dernière))*\W*$"
)
_ORG_END: Final = r"(?:\s+(?i:as|als|como|comme|in|since|seit|desde|depuis)\b.*|" + _TAIL + ")"
_ROLE: Final = (
    r"(?P<value>(?:[\w/+-]+ ){0,3}?(?i:[\w-]*(?:engineer|developer|designer|nurse|doctor|physician|teacher|lawyer|"
    r"manager|analyst|scientist|researcher|student|architect|accountant|chef|cook|baker|pilot|writer|journalist|"
    r"editor|"
    r"electrician|plumber|carpenter|farmer|consultant|programmer|professor|librarian|translator|photographer|musician|"
    r"dentist|pharmacist|veterinarian|therapist|firefighter|mechanic|economist|biologist|chemist|physicist|barista|"
    r"entwickler(?:in)?|ingenieur(?:in)?|lehrer(?:in)?|arzt|ärztin|krankenpfleger(?:in)?|anwalt|anwältin|"
    r"student(?:in)?|"
    r"architekt(?:in)?|koch|köchin|bäcker(?:in)?|journalist(?:in)?|berater(?:in)?|designer(?:in)?|"
    r"ingenier[oa]|profesora?|maestr[oa]|enfermer[oa]|médic[oa]|abogad[oa]|cociner[oa]|estudiante|periodista|"
    r"arquitect[oa]|"
    r"programadora?|diseñadora?|"
    r"ingénieure?|professeure?|infirmi(?:er|ère)|médecin|avocate?|cuisini(?:er|ère)|étudiante?|journaliste|architecte|"
    r"développeu(?:r|se)|boulang(?:er|ère))))"
)
_ROLE_END: Final = r"(?:\s+(?i:at|for|in|by|with|from|and|bei|in|en|para|chez|à|dans|of)\b.*|" + _TAIL + ")"
_SO: Final = (
    r"(?:(?i:really|absolutely|truly|still|generally|usually|personally|definitely|strongly|much|always|also|now)\s+)*"
)
_I: Final = r"[Ii]\s+" + _SO
_AM: Final = r"[Ii](?:\s+am|['’]m)\s+" + _SO
_NOT: Final = r"(?i:don['’]?t|do not|no longer)\s+(?:really\s+)?"


@dataclass(frozen=True, slots=True)
class _Rule:
    pattern: re.Pattern[str]
    key: str
    kind: Literal["explicit", "change"] = "explicit"
    polarity: Literal[1, -1] = 1


def _rules(key: str, *patterns: str, **more: object) -> list[_Rule]:
    return [_Rule(re.compile(_LEAD + pattern), key, **more) for pattern in patterns]  # type: ignore[arg-type]


_DIET: Final = (
    r"(?P<value>(?i:vegetarian|vegan|pescatarian|vegetarier(?:in)?|veganer(?:in)?|vegetarisch|vegetarian[oa]|"
    r"vegan[oa]|végétarien(?:ne)?|végane))"
)
_FAITH: Final = (
    r"(?P<value>(?i:muslim|muslima|christian|catholic|protestant|jewish|hindu|buddhist|atheist|agnostic|sikh|mormon|"
    r"moslem|katholisch|evangelisch|jüdisch|atheistin?|católic[oa]|musulm(?:án|ana)|judí[oa]|budista|ate[oa]|"
    r"catholique|"
    r"musulmane?|juive?|bouddhiste|athée))"
)
_STATUS: Final = r"(?P<value>(?i:married|single|divorced|engaged|widowed|verheiratet|ledig|geschieden|verlobt))"

_RULES: Final[Sequence[_Rule]] = [
    *_rules(
        "identity.name",
        rf"(?i:my name(?:['’]s| is)|mein name ist|ich heiße|ich heisse|me llamo|mi nombre es|je m['’]appelle|"
        rf"mon nom est) "
        rf"{_NAME}{_TAIL}",
    ),
    *_rules("identity.nickname", rf"(?i:(?:please |just )?call me|nenn mich|llámame|appelle[- ]moi) {_NAME}{_TAIL}"),
    *_rules("identity.pronouns", r"(?i:my pronouns are) (?P<value>\w+/\w+)"),
    *_rules(
        "identity.age",
        rf"{_AM}(?P<value>\d{{1,3}})(?: years old)?{_TAIL}",
        r"ich bin (?P<value>\d{1,3})(?: Jahre(?: alt)?)?\W*$",
        r"(?i:tengo) (?P<value>\d{1,3}) años\W*$",
        r"(?i:j['’]ai) (?P<value>\d{1,3}) ans\W*$",
    ),
    *_rules("identity.age", rf"{_I}(?:just )?turned (?P<value>\d{{1,3}}){_TAIL}", kind="change"),
    *_rules(
        "location.city",
        rf"{_I}(?:live|reside) in (?:the )?{_PLACE}{_TAIL}",
        rf"{_AM}(?:based|living) in (?:the )?{_PLACE}{_TAIL}",
        rf"(?i:ich) (?i:wohne|lebe)(?i: jetzt| seit \w+| immer noch)? in {_PLACE}{_TAIL}",
        rf"(?i:(?:yo )?vivo)(?i: ahora)? en {_PLACE}{_TAIL}",
        rf"(?i:j['’]habite|je vis)(?i: maintenant)? (?:à|au|en) {_PLACE}{_TAIL}",
    ),
    *_rules(
        "location.city",
        rf"[Ii](?:['’]ve)? {_SO}(?:just |recently |finally )?(?:moved|"
        rf"relocated)(?: back)? to (?:the )?{_PLACE}{_TAIL}",
        rf"(?i:ich bin)(?i: \w+){{0,2}} nach {_PLACE} (?i:gezogen|umgezogen)\W*$",
        rf"(?i:me mudé)(?i: hace poco)? a {_PLACE}{_TAIL}",
        rf"(?i:j['’]ai (?:récemment )?(?:déménagé|emménagé)|je me suis installée?) (?:à|au|en) {_PLACE}{_TAIL}",
        kind="change",
    ),
    *_rules(
        "location.city",
        rf"{_I}{_NOT}live in {_PLACE}{_TAIL}",
        rf"[Ii] used to live in {_PLACE}{_TAIL}",
        rf"(?i:ich wohne|ich lebe) nicht mehr in {_PLACE}{_TAIL}",
        rf"(?i:ya no vivo) en {_PLACE}{_TAIL}",
        rf"(?i:je n['’]habite plus|je ne vis plus) (?:à|au|en) {_PLACE}{_TAIL}",
        kind="change",
        polarity=-1,
    ),
    *_rules(
        "work.role",
        rf"{_AM}(?:an? )(?:freelance )?{_ROLE}{_ROLE_END}",
        rf"{_I}(?i:work(?:ing)?) as (?:an?|the) {_ROLE}{_ROLE_END}",
        rf"{_AM}working as (?:an?|the) {_ROLE}{_ROLE_END}",
        rf"(?i:ich bin)(?: eine?)? {_ROLE}{_ROLE_END}",
        rf"(?i:ich arbeite) als {_ROLE}{_ROLE_END}",
        rf"(?i:soy) {_ROLE}{_ROLE_END}",
        rf"(?i:trabajo) (?:como|de) {_ROLE}{_ROLE_END}",
        rf"(?i:je suis) {_ROLE}{_ROLE_END}",
        rf"(?i:je travaille) comme {_ROLE}{_ROLE_END}",
    ),
    *_rules(
        "work.role",
        rf"[Ii](?:['’]ve)? (?:just |recently )?(?:became|become|got promoted to|(?:was|been) promoted to|"
        rf"started (?:working )?as) (?:an? |the )?{_ROLE}{_ROLE_END}",
        rf"{_AM}(?:an? ){_ROLE} now\W*$",
        kind="change",
    ),
    *_rules(
        "work.role",
        rf"[Ii](?:['’]m| am) no longer (?:an? ){_ROLE}{_ROLE_END}",
        rf"(?i:ich bin kein(?:e)?) {_ROLE} mehr\W*$",
        kind="change",
        polarity=-1,
    ),
    *_rules(
        "work.employer",
        rf"{_I}(?:work)(?: as [\w /+-]+?)? (?:at|for) {_PLACE}{_ORG_END}",
        rf"{_AM}(?:an? ){_ROLE.replace('?P<value>', '?:')} at {_PLACE}{_ORG_END}",
        rf"(?i:ich arbeite)(?: als \w+)? bei {_PLACE}{_ORG_END}",
        rf"(?i:trabajo)(?: (?:como|de) \w+)? (?:para|en) {_PLACE}{_ORG_END}",
        rf"(?i:je travaille)(?: comme \w+)? (?:chez|pour) {_PLACE}{_ORG_END}",
    ),
    *_rules(
        "work.employer",
        rf"[Ii](?:['’]ve)? (?:just |recently )?(?:joined|started (?:working )?at) {_PLACE}{_ORG_END}",
        kind="change",
    ),
    *_rules(
        "work.employer",
        rf"{_I}{_NOT}work (?:at|for) {_PLACE}{_TAIL}",
        rf"(?i:ich arbeite) nicht mehr bei {_PLACE}{_TAIL}",
        kind="change",
        polarity=-1,
    ),
    *_rules(
        "style.length",
        rf"{_I}(?:prefer|like|want) (?P<value>short|brief|concise|long|detailed) (?:answers|replies|responses){_TAIL}",
    ),
    *_rules(
        "preferences.compared",
        rf"{_I}prefer {_ONE} (?:over|to|rather than|instead of) {_TWO}{_TAIL}",
        rf"{_I}(?:like|enjoy|love) {_ONE} (?:more|better) than {_TWO}{_TAIL}",
        rf"(?i:ich mag) {_ONE} lieber als {_TWO}{_TAIL}",
        rf"(?i:mir ist) {_ONE} lieber als {_TWO}{_TAIL}",
        rf"(?i:ich bevorzuge) {_ONE} (?:gegenüber|statt) {_TWO}{_TAIL}",
        rf"(?i:ich ziehe) {_ONE} {_TWO} vor\W*$",
        rf"(?i:prefiero) {_ONE} (?:a|antes que|en vez de|que) {_TWO}{_TAIL}",
        rf"(?i:je préfère) {_ONE} (?:à|au|aux|plutôt que) {_TWO}{_TAIL}",
    ),
    *_rules("food.diet", rf"{_AM}(?:an? )?{_DIET}{_TAIL}", rf"(?i:ich bin) {_DIET}{_TAIL}"),
    *_rules("food.diet", rf"(?i:soy) {_DIET}{_TAIL}", rf"(?i:je suis) {_DIET}{_TAIL}"),
    *_rules(
        "food.diet",
        rf"[Ii](?:['’]ve| have)? (?:just |recently )?(?:became|become|went|gone) (?:an? )?{_DIET}{_TAIL}",
        kind="change",
    ),
    *_rules(
        "food.diet",
        rf"[Ii](?:['’]m| am) (?:no longer|not) (?:an? )?{_DIET}{_TAIL}",
        rf"[Ii] used to be (?:an? )?{_DIET}{_TAIL}",
        kind="change",
        polarity=-1,
    ),
    *_rules(
        "health.allergy",
        rf"{_AM}(?:severely |very )?allergic to {_THING}{_TAIL}",
        rf"(?i:ich bin (?:sehr )?allergisch gegen) {_THING}{_TAIL}",
        rf"(?i:soy alérgic[oa] (?:a|al)) {_THING}{_TAIL}",
        rf"(?i:je suis allergique (?:à|au|aux)) {_THING}{_TAIL}",
    ),
    *_rules(
        "health.condition",
        rf"{_I}(?:have|suffer from) (?P<value>asthma|(?:type [12] )?diabetes|adhd|epilepsy|depression|arthritis|"
        rf"migraines)"
        rf"{_TAIL}",
        rf"[Ii] (?:was|have been|got) (?:just |recently )?diagnosed with {_THING}{_TAIL}",
        r"(?i:ich habe) (?P<value>Asthma|Diabetes|Depressionen|Epilepsie|ADHS)\W*$",
    ),
    *_rules("faith.religion", rf"{_AM}(?:an? )?{_FAITH}{_TAIL}", rf"(?i:ich bin) {_FAITH}{_TAIL}"),
    *_rules("faith.religion", rf"(?i:soy) {_FAITH}{_TAIL}", rf"(?i:je suis) {_FAITH}{_TAIL}"),
    *_rules(
        "politics.view",
        rf"{_AM}an? (?P<value>socialist|communist|conservative|republican|democrat|libertarian|liberal){_TAIL}",
    ),
    *_rules("politics.party", r"[Ii] (?:always )?vote (?:for )?(?:the )?(?P<value>[A-Z][\w-]+(?: [A-Z]\w+)?)\W*$"),
    *_rules(
        "sexuality.orientation",
        rf"(?:{_AM}|(?i:ich bin |soy |je suis ))(?:an? )?(?P<value>(?i:gay|lesbian|bisexual|asexual|queer|schwul|"
        rf"lesbisch|"
        rf"lesbiana|lesbienne)){_TAIL}",
    ),
    *_rules("family.status", rf"{_AM}{_STATUS}{_TAIL}", rf"(?i:ich bin) {_STATUS}{_TAIL}"),
    *_rules("family.status", rf"[Ii] (?:just |recently )?got {_STATUS}{_TAIL}", kind="change"),
    *_rules(
        "family.partner",
        rf"(?i:my (?:wife|husband|partner|girlfriend|boyfriend)(?:['’]s name is| is (?:called|named))) {_NAME}{_TAIL}",
    ),
    *_rules(
        "language.spoken",
        rf"{_I}speak (?:fluent )?(?P<value>[A-Z]\w+){_TAIL}",
        r"(?i:ich spreche) (?P<value>[A-Z]\w+)\W*$",
        r"(?i:hablo) (?P<value>\w+)\W*$",
        r"(?i:je parle) (?P<value>\w+)\W*$",
    ),
    *_rules(
        "projects.current",
        rf"{_AM}(?:currently |busy )?(?:working on|building|developing) (?:my (?:own )?|an? |the )?{_LONG}{_TAIL}",
        rf"(?i:my (?:current |side |new )?project is(?: called)?) {_LONG}{_TAIL}",
        rf"(?i:ich (?:arbeite (?:gerade )?an|baue(?: gerade)?)) (?:einer?|einem|einen|meiner|meinem) {_LONG}{_TAIL}",
        rf"(?i:estoy (?:trabajando en|construyendo|desarrollando)) (?:una? |mi )?{_LONG}{_TAIL}",
        rf"(?i:je travaille sur) (?:une? |mon |ma )?{_LONG}{_TAIL}",
    ),
    *_rules(
        "projects.current",
        rf"[Ii](?:['’]m| am) (?:no longer|not) working on (?:my |an? |the )?{_LONG}{_TAIL}",
        rf"[Ii] (?:stopped working on|gave up on|abandoned) (?:my |an? |the )?{_LONG}{_TAIL}",
        kind="change",
        polarity=-1,
    ),
    *_rules(
        "interests.likes",
        rf"{_I}(?:love|like|enjoy|adore|prefer) {_THING}{_TAIL}",
        rf"{_AM}(?:into|an? (?:big |huge )?fan of) {_THING}{_TAIL}",
        rf"(?i:ich (?:mag|liebe)) {_THING}{_TAIL}",
        rf"(?i:ich) \w+ (?:sehr )?gern(?:e)? {_THING}{_TAIL}",
        rf"(?i:me (?:gustan?|encantan?)) {_THING}{_TAIL}",
        rf"(?i:j['’](?:aime|adore)) {_THING}{_TAIL}",
    ),
    *_rules(
        "interests.likes",
        rf"{_I}(?:hate|dislike|detest|can['’]?t stand|cannot stand|do not like|don['’]?t (?:really )?(?:like|enjoy)) "
        rf"{_THING}{_TAIL}",
        rf"[Ii](?:['’]m| am) not (?:an? (?:big )?fan of|into) {_THING}{_TAIL}",
        rf"(?i:ich (?:hasse|mag kein(?:e|en)?)) {_THING}{_TAIL}",
        rf"(?i:ich mag) {_THING} nicht\W*$",
        rf"(?i:no me (?:gustan?|encantan?)|odio|detesto) {_THING}{_TAIL}",
        rf"(?i:je (?:n['’]aime pas|déteste)) {_THING}{_TAIL}",
        polarity=-1,
    ),
    *_rules(
        "interests.likes",
        rf"[Ii] (?:no longer (?:like|love|enjoy)|stopped (?:liking|enjoying)|used to (?:love|like|"
        rf"enjoy)) {_THING}{_TAIL}",
        rf"[Ii] don['’]?t (?:like|love|enjoy) {_THING} any ?more\W*$",
        rf"(?i:ya no me (?:gustan?|encantan?)) {_THING}{_TAIL}",
        rf"(?i:je n['’]aime plus) {_THING}{_TAIL}",
        kind="change",
        polarity=-1,
    ),
]  # fmt: skip

_IN_ORDER: Final = sorted(_RULES, key=lambda rule: (rule.polarity, rule.kind != "change"))
