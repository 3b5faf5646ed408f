"""The texts that are one token each in a synthetic vocabulary, in the order in which they are added.

First what Qwen's own vocabulary has around image blocks and chat headers, so that every tile tag costs the same number
of tokens, cut at the same places, as with the release; then common words, as they stand behind a blank and as they open
a sentence.
"""

from __future__ import annotations

__all__ = ["MARKUP", "WORDS"]

# "<tile" is left out on purpose: "<tile_1>" is five tokens, "<Image>" two, and "><" joins across tags.
_MARKS = "<Image Image tile _global _thumbnail >< </ system user assistant Answer Please 's 't ... !! ?? ). ),"
MARKUP = (*_MARKS.split(), ">\n", "\n\n", ":\n", ".\n", ".\n\n")

_COMMON = """
about above act add after again air all also always am an and animal answer any are area as ask at back background
base be been before began begin best better between big bird black body book both boy build but by call came can car
care carry cause change chart children city class close color column come complete corner could country cover cross
cut day describe detail did differ direct do does dog door down draw during each early earth ease eat end enough
even ever every example eye face family far farm fast father feel feet few find fire first fish five follow food for
form found four friend from get girl give go good got great ground group grow had half hand happen hard has have
head hear heard help her here high him his hold home horse hot hour house how hundred idea if image in interest is
it just keep kind king knew know land large last late learn leave left let letter life light like line list little
live long look low lower made main make man many mark may me mean measure men might mile more most mother mountain
move much music must my name near need never new next night no north now number of off often old on once one only
open or order other our out over own page paper part pass people person photo picture piece place plain plant play
point port pose press problem product put question questions rain reach read ready real red remember right river
rock room round row run said same saw say school sea second see seem self sentence set she ship short shortly should
show shown side since sing size small so some song soon sound south spell stand start state step still stop story
street study such sun sure table take talk tell text than that the their them then there these they thing think this
those though thought three through time to together told too took top tree true try turn two under until up upper us
use usual very walk want was watch water way we well went were west what when where which while white who whole why
will wind with wood word work world would write year young your
"""

# The longer ones seldom open a sentence, and the small vocabulary is full without them.
_MAX_OPENER_LETTERS = 5

WORDS = (
    *(f" {word}" for word in _COMMON.split()),
    *(word.capitalize() for word in _COMMON.split() if len(word) <= _MAX_OPENER_LETTERS),
)
