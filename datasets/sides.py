"""Left and right in the words of an expression, for clips that are mirrored.

Wrong words are worse than a clip that is not mirrored. So a word is exchanged only where it certainly names a side, and
any other word that may name a side stops the flip.
"""

from __future__ import annotations

import re
import unicodedata

_OTHER_SIDE = {"left": "right", "right": "left"}
_SIDE = re.compile("left|right", re.IGNORECASE)
_WORD = re.compile(r"[^\W\d_]+")


def _any_of(words: str) -> re.Pattern:
    """A pattern for these words; a ``*`` in a word stands for any letters."""
    return re.compile("|".join(words.split()).replace("*", r"\w*"))


# What may stand before and after a side in one word: upperleft, leftmost, lefties, bottomrightcorner. Not "up" and
# "down", which would make upright and downright, and not "s", which would make rights.
_BEFORE = _any_of(
    "top bottom upper lower middle mid center centre far near front back rear low high inner outer extreme hind fore"
)
_AFTER = _any_of(
    """most er est ermost ish ward wards y ie ies side sides sided hand hands handside handed handedly handedness hander
    handers foot feet footed footer footers wing wings winger wingers arm arms leg legs eye eyes ear ears paw paws
    shoulder cheek knee top bottom upper lower middle mid center centre front back backs rear corner edge end half part
    lane turn bound facing field fielder fielders"""
)
# Left and right with a letter left out, doubled or exchanged with the next one. "Let" is a word of its own.
_MISSPELT = {
    word[:i] + changed + word[i + 2 :]
    for word in _OTHER_SIDE
    for i in range(len(word))
    for a, b in [(word[i], word[i + 1 : i + 2])]
    for changed in (a, b, a + a + b, b + a)
} - {"left", "right", "let"}
_NEARLY = re.compile(f"(?:{_BEFORE.pattern})?(?:{'|'.join(sorted(_MISSPELT))})(?:{_AFTER.pattern})?(?:most)?")
_SURE = re.compile(f"(?:{_BEFORE.pattern})?(?:left|right)(?:{_AFTER.pattern})?(?:most)?")

# English words with left or right in them that name no side. Whole words: "lowright" is no wright.
_HARMLESS = _any_of(
    """bright brights brighter brightest brightly brightness brightish brighten* overbright eyebright
    upright uprights uprightly uprightness outright forthright* alright birthright birthrights
    fright frights frighted frighten* frightful* affright spright sprightly sprightliness
    wright wrights playwright playwrights shipwright shipwrights wheelwright wheelwrights cartwright millwright
    copyright copyrights copyrighted copyleft leftover leftovers cleft clefts leftist leftists leftism
    rightist rightists rightism rightful* righteous* rightly rightness righted righting"""
)

# What carries a side, or may, and is not exchanged. English: turns; sides of boats and cars; the compass, which on a
# picture is seldom left and right, but mirrored with it; letters and short forms, for an R may be printed on a shirt;
# misspellings. Other languages: written without their accents. Left, right, east and west in about 60 of them are those
# that CLDR, Unicode's data about languages, has in the names of arrows and hands (annotations/*/annotations.json of
# cldr-json/cldr-annotations-full in github.com/unicode-org/cldr-json); not "vest", which in English is worn.
_UNSURE = _any_of(
    """cw ccw acw widdershins starboard larboard portside nearside offside kerbside curbside southpaw southpaws
    l r lt rt rgt rht lh rh lhs rhs rite leff uprt uplft uprlft e w ne nw se sw
    east eastern easterly eastward eastwards eastbound northeast northeastern southeast southeastern
    west western westerly westward westwards westbound northwest northwestern southwest southwestern
    izq izqda izda dcha drcha siniestr* izquierd* derech* esquerr* dreta dret esquerd* direit* dereit* gauche* droit
    droite* droitier* babord tribord backbord steuerbord
    sinistra sinistro sinistri sinistre destra destro destri destre stanga stangul stangii dreapta dreptul
    *links links* linke linken linker linkes linkem linkse linkerhand linkerkant
    *rechts rechts* rechte rechten rechter rechtes rechtem rechterhand rechterkant regs regter
    venstre* hoyre* hojre* hojre høyre højre vanster vanstra hoger hogra vinstri hægri
    lewo lewa lewy lewe lewej lewym prawo prawa prawy prawe prawej prawym vlevo vpravo vlavo nalevo napravo
    zleva zprava zlava lavy lava lavo lavom
    leva leve levo levy levou levem levi lijev* desna desne desni desno desnom prava prave pravo pravy pravou pravem
    levyj pravyj sleva sprava livoruch pravoruch bal balra baloldal* jobb jobbra jobboldal*
    vasen vasemm* vasemp* oikea* vasak* parem* kreisi kreisa kreisais labi labaja kaire kairej* desine desinej*
    majtas djathtas sol solda soldaki sag sagda sagdaki ezker* eskuin* chwith cle deas dekstr* maldekstr*
    kiri kanan kaliwa trai phai kushoto kulia zuo zuobian youbian hidari migi oenjjok oreunjjok baayen daayen
    majte djathte saga sagi sola solu doleva doprava dolava ulijevo udesno ulevo nadesno nalijevo nalewo dolewa doprawa
    naprawo napsawo vinstra vinstru vansterpil* vansterv* vansterr* hogerp* hogerv* hogerr* hægra høgre høgru højre*
    alavasemm* alaoikea* ylavasemm* ylaoikea* laba kreiso dde dheis cli chli chle lenks riets dereta manca
    pakaliwa* pakanan* ngiwa kiwa tengen nengen maui matau hema chap chapga cepe xellugija leminija
    benkum nifa hagu dama akaekpe akanri bitaa mirgaa bidix midig gojeng letshadi molemeng ibumoso iburyo kwesokunxele
    kwesokudla ekhohlo osi otun cammon ndijoor lluqi pana panaman moxq wikiq rait
    est oest ouest ovest øst nordøst sydøst vestur austur nordvest sydvest vaster oster lansi ita luode lounas kaakko
    koillinen kelet nyugat vzhod zahod vychod zapad wschod zachod lindje perendim dogu batı ekialde mendebalde barat
    timur tay đong kanluran silangan wetan kulon mashariki magharibi empuma entshona yamma gabas galbeed thoir thiar
    rawhiti uru sharq qərb sərq gundogar gunbatar"""
)
_UNSURE_PHRASES = re.compile(
    r"\bright[\s-]+(?:now|away|angle\w*|side[\s-]+up)\b|\ball[\s-]+right\b|\bleft[\s-]+(?:over|alone)\b|"
    r"\bo\W?clock|clock[\s-]*wise|\b(?:driver|passenger)\W{0,2}s?\s+(?:\w+\s+)?(?:side|seat)|"
    r"\b(?:port|near|off|ker?b|curb)[\s-]+side|\bto\s+port\b|\bon\s+the\s+port\b|\b(?:first|third)\s+base|<[-=~]|[-=~]>",
    re.IGNORECASE,
)
_POINTING = re.compile(r"LEFT|RIGHT|EAST|WEST|CLOCKWISE")  # in the Unicode names of arrows and hands


def swap_sides(text: str) -> str | None:
    """Exchanges left and right in every word that names a side, keeping their case; None where that is uncertain.

    Exchanged are left and right by themselves (left's, "left,", left-hand, down-right, left2), with an ending
    (leftmost, rightwards, lefthand, leftside, lefty, right-handed) and joined to another place (bottomleft,
    toprightcorner). "Right" and "left" may have other meanings ("right behind", "the man who left"); they are exchanged
    as well, because no rule tells these apart. Words such as bright, upright and leftover name no side and stay.

    The result is None for texts with: a letter outside of Latin script; a side in another language; clockwise and
    o'clock; arrows; east and west; starboard and the driver's side; l, r and short forms (lhs, rt); "right now", "left
    over" and the like; and a word with left or right in it that is neither known to name a side nor to be harmless.
    """
    plain = "".join(c for c in unicodedata.normalize("NFKC", text) if unicodedata.category(c) != "Cf")
    if len(_SIDE.findall(plain)) != len(_SIDE.findall(text)):  # full-width letters, or invisible characters among them
        return None
    if _UNSURE_PHRASES.search(plain) or any(map(_speaks_otherwise, plain)):
        return None
    for word in _WORD.findall(plain.lower()):
        bare = _without_accents(word)
        known = _SURE.fullmatch(word) or _HARMLESS.fullmatch(word)
        if _UNSURE.fullmatch(bare) or _NEARLY.fullmatch(bare) or (_SIDE.search(bare) and not known):
            return None
    return _WORD.sub(lambda word: word[0] if _HARMLESS.fullmatch(word[0].lower()) else _swapped(word[0]), text)


def _speaks_otherwise(character: str) -> bool:
    """Whether a character is a letter of another script than Latin, or a picture that points to a side."""
    if character.isascii():
        return False
    category, name = unicodedata.category(character), unicodedata.name(character, "")
    if category.startswith("L"):
        return not name.startswith(("LATIN", "MODIFIER LETTER"))
    return category.startswith("S") and bool(_POINTING.search(name))


def _without_accents(word: str) -> str:
    return "".join(c for c in unicodedata.normalize("NFKD", word) if not unicodedata.combining(c))


def _swapped(word: str) -> str:
    def other(match: re.Match) -> str:
        side = match[0]
        swapped = _OTHER_SIDE[side.lower()]
        return swapped.upper() if side.isupper() else swapped.capitalize() if side[0].isupper() else swapped

    return _SIDE.sub(other, word)
