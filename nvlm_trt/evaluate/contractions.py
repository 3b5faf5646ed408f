"""The apostrophes that the VQA metric puts back: "dont" and "don't" are the same answer.

The public metric lists about 120 pairs. All but one follow from the right-hand words: a word's keys are the word with
exactly one of its apostrophes left out. Pairs that change nothing are not kept, nor those with capitals, which never
match a lower-cased text. The exception, "somebody'd", loses its apostrophe: a slip in the original that scores depend
on.
"""

from __future__ import annotations

__all__ = ["CONTRACTIONS"]

_WORDS = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've he's
how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't not've o'clock
oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd
someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've there're there's
they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've when's
where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't wouldn't've
y'all y'all'll y'all'd've you'd you'd've you'll you're you've
"""


def _keys(word: str) -> list[str]:
    return [word[:at] + word[at + 1 :] for at, letter in enumerate(word) if letter == "'"]


CONTRACTIONS = {key: word for word in _WORDS.split() for key in _keys(word)} | {"somebody'd": "somebodyd"}
