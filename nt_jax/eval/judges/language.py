"""Whether a text is English: by its script, and by the small words that every language needs."""

import re

READ = 600  # characters
FEW = 4  # words of Latin script that say too little
LATIN = 0x250  # letters below it are of a Latin alphabet
_ADDRESS = re.compile(r"\S+[./@]\w+\S*")
_WORD = re.compile(r"[^\W\d_]{2,}(?:'[^\W\d_]+)?")
_ENGLISH_WORDS = (
    "the of and to in is that it for as with i you not but be are this on or at by from an we "
    "can have has your my me what how if do will would should could here there they which so "
    "can't cannot i'm it's don't won't sorry no yes sure help any a was were their its such"
)
_ENGLISH = frozenset(_ENGLISH_WORDS.split())
# Spanish, French, German, Portuguese, Italian, Dutch, Polish, Swedish, Turkish, Indonesian,
# Vietnamese. The few that are English, too (pour, den, van), come with more of the words above.
_OTHER_WORDS = (
    "el la los las un una de del que en es por para con se lo pero puedo siento como su más les "
    "et des du je ne pas est une pour dans qui sur vous nous mais avec peux suis désolé ce der "
    "das und ich nicht ist ein eine zu mit für auf kann leider dass sie wir aber auch den dem "
    "os não eu um uma em desculpe posso isso mas il di che non per sono mi dispiace het een "
    "niet van ik dat maar kan op voor nie jest się na w z że przepraszam mogę och att det inte "
    "jag som är ve bir bu için değil ama üzgünüm yang dan tidak saya maaf untuk dengan ini itu "
    "tôi không là và của xin lỗi thể một"
)
_OTHER = frozenset(_OTHER_WORDS.split())


def is_english(text: str) -> bool:
    """False where most letters are of another script, or most small words of another language.

    Code, numbers, names and a word or two tell nothing and pass for English.
    """
    text = _ADDRESS.sub(" ", text.strip()[:READ])
    letters = [one for one in text if one.isalpha()]
    if sum(ord(one) < LATIN for one in letters) < 0.6 * len(letters):
        return False
    words = _WORD.findall(text)
    if len(words) < FEW:
        return True
    words[0] = words[0].lower()  # capitals make a name of the others: La Paz
    other = sum(word in _OTHER for word in words)
    return other < max(2, 0.15 * len(words)) or other <= sum(w.lower() in _ENGLISH for w in words)
