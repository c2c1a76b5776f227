"""Plausibility of decoded text: letters of one language in usual order, punctuation in usual places. Rules must never
reject correct text; they may accept wrong text."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import pairwise


@dataclass(frozen=True)
class Language:
    """Letters of a language beyond ASCII, in lower case.

    Args:
        letters: letters of native words; an encoding without one of them was never used for the language.
        more: further letters, in names and loanwords.
        never: pattern that does not occur.
        latin: whether its words have ASCII letters, too.
    """

    letters: str
    more: str = ""
    never: str = r"(?!)"
    latin: bool = True

    @cached_property
    def all(self) -> frozenset[str]:
        return frozenset(self.letters + self.more)


HARAKAT = "".join(map(chr, range(0x64B, 0x653)))
THAI_MARKS = "\u0e31" + "".join(map(chr, [*range(0xE34, 0xE3B), *range(0xE47, 0xE4F)]))
THAI = "".join(map(chr, [*range(0xE01, 0xE31), 0xE32, 0xE33, *range(0xE40, 0xE47)]))
VOWEL = "aeiouyáéíóúýäöüôûůűőèàùòìâêîëïãõåæøœ"
LANGUAGES: Mapping[str, Language] = {
    "English": Language("", "éèêëïñöüçàâôæœ"),
    "German": Language("äöüß", "éèêàáçôâ"),
    "French": Language("àâçéèêëîïôùû", "æœÿüñ"),
    "Spanish": Language("áéíóúñ", "üçàèò"),
    "Portuguese": Language("áâãàçéêíóôõú", "üèïñ"),
    "Italian": Language("àèéìòù", "íîóúçâê"),
    "Catalan": Language("àçèéíïòóúü", "ñá"),
    "Dutch": Language("éëïöü", "èêáàíóúâôûîäçñ"),
    "Danish, Norwegian": Language("æøå", "éèêàòóôâäöü"),
    "Swedish": Language("åäö", "éàüèáç"),
    "Finnish": Language("äö", "åšžéü"),
    "Icelandic, Faroese": Language("áðéíóúýæö", "þø"),
    "Irish, Welsh": Language("áéíóú", "âêîôûàèìòùäëïöŵŷ"),
    "Albanian": Language("çë", "éâ"),
    # before a vowel, `ć` is written `ci`, and so on; no word begins with the others
    "Polish": Language("ąćęłńóśźż", "éöüäáč", rf"[ćńśź][{VOWEL}ąę]|\b[ąęń]"),
    "Czech": Language("áčďéěíňóřšťúůýž", "öüäôľ", r"\b[ůě]"),
    # the long `l` and `r` are syllables between consonants
    "Slovak": Language("áäčďéíľňóôšťúýž", "ĺŕöüě", rf"\b[ĺŕ]|[ĺŕ]\b|[{VOWEL}][ĺŕ]|[ĺŕ][{VOWEL}]"),
    "Hungarian": Language("áéíóöőúüű", "äëč"),
    "Romanian": Language("ăâî", "şţșțéáöüőä"),
    "Croatian, Bosnian, Serbian": Language("čćđšž", "éöüáä"),
    "Slovenian": Language("čšž", "ćđéöüáä"),
    "Turkish": Language("çğıöşü", "âîûé"),
    "Estonian": Language("äõöü", "šžé"),
    "Latvian": Language("āčēģīķļņšūž", "ōŗéöü"),
    "Lithuanian": Language("ąčęėįšųūž", "éöü"),
    "Vietnamese": Language("ăâđêôơư", "àáèéìíòóùúýảãạẻẽẹỉĩịỏõọủũụỳỷỹỵấầẩẫậắằẳẵặếềểễệốồổỗộớờởỡợứừửữự"),
    "Russian": Language("оеаинтсрвлкмдпуяыьгзбчйхжшюцщэфъ", "ё", latin=False),
    "Ukrainian": Language("оанивіретсклудпмязьгбчйхжєшюцїщф", "ґ'", latin=False),
    "Bulgarian": Language("аиоетнрсвлкдпмзъгбучйщхяцшжфюь", latin=False),
    "Belarusian": Language("анірыескотлдумвпьяўгзбчйцшхёжюэф", latin=False),
    "Serbian, Macedonian": Language("аиоенрстдкувлпмјгбзчшжљњцћхђфџ", "ѓќѕ", latin=False),
    # letters that have another form at the end of a word
    "Greek": Language("αοιετςσνρκπμλυηδγωχθφβξζψάέήίόύώ", "ϊϋΐΰ", r"ς(?=[α-ώ])|[α-ώ]σ\b", latin=False),
    "Hebrew": Language("אבגדהוזחטיכךלמםנןסעפףצץקרשת", "", "[ךםןףץ](?=[א-ת])", latin=False),
    "Arabic": Language("اأإآبتثجحخدذرزسشصضطظعغفقكلمنهةويىءئؤ", "ـپچژگ" + HARAKAT, latin=False),
    # vowels above and below, and tones, stand on a consonant
    "Thai": Language(f"{THAI}{THAI_MARKS}", "", f"(?<![{THAI}{THAI_MARKS}])[{THAI_MARKS}]", latin=False),
}
BALTIC = ("English", "Estonian", "Latvian", "Lithuanian")
REGIONAL: Mapping[str, tuple[str, ...]] = {
    "cp775": BALTIC,
    "cp1257": BALTIC,
    "iso8859_16": ("English", "Romanian"),
    "mac_romanian": ("English", "Romanian"),
    "mac_croatian": ("English", "Croatian, Bosnian, Serbian", "Slovenian"),
    "mac_iceland": ("English", "Icelandic, Faroese"),
    "cp857": ("English", "Turkish"),
    "cp1254": ("English", "Turkish"),
    "mac_turkish": ("English", "Turkish"),
    "cp1258": ("English", "Vietnamese"),
}
"""Encodings used only for the languages of their region, although they have letters of others."""
ENGLISH = frozenset("the with from this that which and of".split())  # noqa: SIM905
ENGLISH_TOO = frozenset("a an is are in on at to its his her by for has".split())  # noqa: SIM905
"""Words unique to English, and words shared with other languages."""

OPENING, CLOSING, WITHIN = "“„‚‘«‹¿¡", "”»›", "’´–—…·-'"
SPACES = "\u00a0"
SIGNS = "€£¢¥©®™§½¼¾×±°²³µ•"
MARKS = frozenset(OPENING + CLOSING + WITHIN + SPACES + SIGNS)
"""Characters beyond ASCII that are not letters."""
LETTER = r"[^\W\d_]"
MISPLACED = re.compile(
    rf"{LETTER}[{OPENING}]|[{CLOSING}]{LETTER}"  # quotes look away from what they hold
    rf"|(?<![m])[²³]|[²³]{LETTER}|(?<!\d)(?<!\d )°|{LETTER}[€£¢¥©§½¼¾×±µ†‡]|[€£¢¥§½¼¾±†‡®™²³•]{LETTER}"
    rf"|(?<!\d)(?<!\d )[¢¥](?! ?\d)|{LETTER}·(?!{LETTER})|(?<!{LETTER})·(?={LETTER})|œ\b|[{OPENING}][„‚‹]"
)
ALONE = frozenset("àáèéíóôúåäöøæő")
"""Letters beyond ASCII that are words on their own."""

MIXED = re.compile(r"[a-z](?=[^\W\d_a-z])|[^\W\d_a-z](?=[a-z])")
"""A word with letters of two alphabets."""

COMMON: Mapping[str, tuple[str, int, int]] = {
    "gb18030": ("gb2312", 0xB0, 0xD7),
    "big5": ("big5", 0xA4, 0xC6),
    "cp949": ("euc_kr", 0xB0, 0xC8),
    "cp932": ("shift_jis", 0x88, 0x97),
    "euc_jp": ("euc_jp", 0xB0, 0xCF),
}
"""Far Eastern encodings: first bytes of the few thousand most common characters, by encoding."""
FEW = 6
"""Characters of encodings in which none need be common."""
KANA, HANGUL, HAN = "\u3040-\u30ff", "\uac00-\ud7a3", "\u4e00-\u9fff"
FAR_EAST = re.compile(rf"[{KANA}{HANGUL}{HAN}\uff61-\uff9f\u3130-\u318f]")
NEUTRAL = re.compile("[\u3000-\u303f\uff01-\uff60\u2018-\u201d\u2026\u30fb\u30fc]")
KINDS = {"gb18030": HAN, "big5": HAN, "cp949": HANGUL, "cp932": HAN + KANA, "euc_jp": HAN + KANA}
"""Character ranges of texts in these encodings."""
COMMON_WORDS = """
café cafés naïve façade cliché clichés fiancé fiancée résumé décor crème brûlée purée sauté entrée soirée rosé déjà là
très même être été père mère frère fête fêtes tête bébé après forêt château châteaux garçon garçons français française
fenêtre fenêtres élève école église époque étoile étoiles île îles hôtel rivière lumière arrière près derrière côté où
élégant élégante réaliste céleste déesse fée fées lumières décoré décorée beauté cité éléphant écran noël années théâtre
musée œil œuvre cœur sœur
für über grün grüne grüner grünes grünen schön schöne schönes schöner größe größer größte groß große großer großes
straße weiß weiße weißer weißes weißen süß süße fünf tür bär bären mädchen männer jünger äpfel vögel bäume häuser
blätter früchte könig königin hände füße gemälde gebäude rücken zurück müde möbel hübsch hübsche während löwe küche
münchen hält läuft trägt öffnet
niño niña niños niñas año años mañana señor señora español española españa montaña montañas pequeño pequeña piñata
jalapeño árbol árboles corazón jardín pájaro león ratón avión número también más está así día días azúcar sofá bebé
não são pão coração maçã avião mão mãos irmão irmã criança crianças você três água árvore pássaro cão cães balão
città caffè così perché più già può felicità libertà metà papà lunedì
på är för från även två träd blått grå blå gård skål båt höst själv ögon gå står håller tittar också
it’s that’s what’s there’s here’s he’s she’s who’s let’s don’t can’t won’t isn’t aren’t doesn’t didn’t wasn’t i’m you’re
we’re they’re i’ve you’ve man’s woman’s men’s women’s children’s people’s dog’s cat’s bird’s world’s today’s mother’s
father’s boy’s girl’s baby’s person’s artist’s child’s one’s king’s queen’s painter’s photographer’s
l’eau l’art d’art d’or c’est l’homme l’air d’un d’une l’été qu’il n’est s’est j’ai aujourd’hui
"""
WORDS = frozenset(COMMON_WORDS.split())
"""Words beyond ASCII that are too common to result from a wrong encoding."""


def plausible(text: str, encoding: str) -> bool:
    """Return whether a text stored in this encoding is plausible."""
    beyond = {c for c in text if ord(c) >= 128}
    if encoding in KINDS or (encoding.startswith("utf") and FAR_EAST.search(text)):
        return _far_eastern(text, encoding)
    letters = {"ı" if c == "İ" else c.lower() for c in beyond - MARKS}
    languages = [language for language in _languages(encoding, text) if letters <= language.all]
    if not languages or MISPLACED.search(text) or _case_is_broken(text):
        return False
    return not letters or any(_written_in(language, text.lower()) for language in languages)


def are_common(text: str) -> bool:
    """Return whether all words with characters beyond ASCII are common words."""
    words = [word.strip("’") for word in re.findall(rf"(?:{LETTER}|’)+", text.lower())]
    words = [word for word in words if not word.isascii()]
    longer = [word for word in words if len(word) > 1]
    return bool(longer) and all(word in WORDS or word in ALONE for word in words)


def _written_in(language: Language, text: str) -> bool:
    """Return whether a text with a language's letters can be in it."""
    if re.search(language.never, text):
        return False
    plain = sum(c.isascii() and c.isalpha() for c in text)
    if language.latin:
        return all(word in ALONE or word.isascii() for word in re.findall(rf"\b{LETTER}\b", text))
    return sum(c in language.all for c in text) >= plain and not MIXED.search(text)


def _languages(encoding: str, text: str) -> Iterator[Language]:
    words = set(re.findall(r"[a-z]+", text.lower()))
    if len(words & ENGLISH) + len(words & (ENGLISH | ENGLISH_TOO)) >= 2:
        yield LANGUAGES["English"]
        return
    yield from (LANGUAGES[name] for name in _of(encoding))


@cache
def _of(encoding: str) -> tuple[str, ...]:
    """Return the languages whose letters an encoding has."""
    return REGIONAL.get(encoding) or tuple(name for name, one in LANGUAGES.items() if _has(encoding, one.letters))


def _has(encoding: str, letters: str) -> bool:
    try:
        letters.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True


def _case_is_broken(text: str) -> bool:
    """Return whether a capital follows a lower-case letter within a word, one of them beyond ASCII."""
    return any(a.islower() and b.isupper() and not (a + b).isascii() for a, b in pairwise(text))


def _far_eastern(text: str, encoding: str) -> bool:
    """Return whether a text consists mostly of the common characters of this encoding, with no more letters than
    these."""
    beyond = [c for c in text if ord(c) >= 128 and not NEUTRAL.match(c)]
    kind = re.compile(f"[{KINDS.get(encoding, HAN + KANA + HANGUL)}]")
    if not beyond or len(beyond) < sum(c.isascii() and c.isalpha() for c in text) or not all(map(kind.match, beyond)):
        return False
    few = encoding not in COMMON and len(beyond) < FEW
    return few or sum(_is_common(c, encoding) for c in beyond) >= 0.5 * len(beyond)


def _is_common(character: str, encoding: str) -> bool:
    """Return whether a character is common; for Shift JIS, whether its first byte is not a Western letter."""
    if re.match(f"[{KANA}]", character):
        return True
    if encoding == "cp932" and character.encode(encoding)[0] < 0xC0:
        return True
    places = [COMMON[encoding]] if encoding in COMMON else COMMON.values()
    return any(_has(name, character) and first <= character.encode(name)[0] <= last for name, first, last in places)
