import pytest
import regex
from hypothesis import example, given, settings
from hypothesis import strategies as st

from aloe.roles.sentences import finished, first_sentences, joined, split_sentences

LANGUAGES = ("en", "de", "zh", "ja", "hi", "ar", "th", "km", "ru", "el", "xyz")
MARKS = [*".!?…。！？｡।॥؟۔።။།។;:,\"'”“»«」』)(（）*-", "...", "?!", " ", "  ", "\n", "\r\n", "\t"]
PIECES = st.sampled_from(
    [
        *MARKS,
        *("Dr.", "e.g.", "3.14", "1.", "p.m.", "z.B.", "U.S.", "you", "Yes", "é", "e\u0301"),
        *("你好", "ありがとう", "नमस्ते", "مرحبا", "שלום", "สวัสดี", "ជំរាបសួរ", "བཀྲ་ཤིས", "Привет"),
        *("😀", "👩‍👩‍👧", "👍🏽", "🇩🇪", "❤️", "\u0301", "\u200d", "\ufe0f", "\u200f", "\x00"),
    ]
)
TEXTS = st.lists(PIECES, max_size=40).map("".join) | st.text(max_size=60)


@pytest.mark.parametrize(
    ("language", "text", "first"),
    [
        ("en", "One. Two! Three? Four.", "One. Two! Three?"),
        ("en", "I met Dr. Smith. She paid 3.50 euros. Fine. Bye.", 3),
        ("en", "Dr. Who came. Mr. Bean left. e.g. J. R. Smith stayed. Nobody else.", 3),
        ("en", "Wait... what? Yes. No. Maybe.", 3),
        ("en", "Great! 😀 I love it! 😀 You? Me too.", 3),
        ("en", "1. bread\n2. milk\n3. eggs\n4. salt", None),
        ("en", "hey\nhow are you\ni am fine\nbye", None),
        ("en", "He said “no.” I left. Then “Yes!” he cried. Bye.", 3),
        ("en", "omg. i know. so cool. bye.", 3),
        ("de", "Am 3. Mai war z.B. Dr. Müller da. Gut. Ja. Nein.", 3),
        ("zh", "我今天很累。你呢？太好了！再见。", 3),
        ("zh", "好!真的?对.再见", 3),
        ("ja", "元気です。本当に？はい！では。", 3),
        ("hi", "मैं ठीक हूँ। तुम कैसे हो? बहुत अच्छा। फिर मिलेंगे।", 3),
        ("bn", "আমি ভালো। তুমি? বেশ। বিদায়।", 3),
        ("ar", "أنا بخير. كيف حالك؟ رائع! وداعا.", 3),
        ("ur", "میں ٹھیک ہوں۔ آپ؟ بہت خوب۔ خدا حافظ۔", 3),
        ("he", "שלום. מה שלומך? יופי! ביי.", 3),
        ("el", "Καλά είμαι. Τι κάνεις; Ωραία! Γεια.", 3),
        ("hy", "Բարև։ Լավ եմ։ Դու։ Ցտեսություն։", 3),
        ("am", "ሰላም። ደህና ነኝ። አንተስ። ቻው።", 3),
        ("my", "မင်္ဂလာပါ။ ကောင်းပါတယ်။ သင်ရော။ တာ့တာ။", 3),
        ("km", "សួស្តី។ ខ្ញុំសុខសប្បាយ។ អ្នកវិញ។ លា។", 3),
        ("bo", "བཀྲ་ཤིས། བདེ་ལེགས། ཡག་པོ། ག་ལེར།", 3),
        ("th", "สวัสดีครับ วันนี้เหนื่อยมาก คุณล่ะ กินข้าวหรือยัง", None),
        ("en", "no mark at all", None),
        ("en", "👍🏽👍🏽👍🏽👍🏽", None),
        ("en", "", None),
    ],
)
def test_the_first_sentences_of_a_text(language, text, first):
    """``first`` is the text, None for all of it, or how many sentences are all but the last."""
    if isinstance(first, int):
        sentences = split_sentences(text, language)
        assert len(sentences) == first + 1
        first = text[: text.rindex(sentences[-1])].rstrip()
    assert first_sentences(text, 3, language) == (text if first is None else first)


@settings(deadline=None)
@given(TEXTS, st.integers(1, 4), st.sampled_from(LANGUAGES))
@example("a。\u0301b", 1, "zh")
@example("A. \u0301b", 1, "en")
def test_it_is_a_beginning_and_stays_what_it_is(text, most, language):
    first = first_sentences(text, most, language)
    assert text.startswith(first)
    assert bool(first) == bool(text) or not text.strip()
    assert first_sentences(first, most, language) == first
    ends = {0, *(match.end() for match in regex.finditer(r"\X", text))}
    assert len(first) in ends


@settings(deadline=None)
@given(TEXTS, st.sampled_from(LANGUAGES))
def test_no_letter_is_lost_between_sentences(text, language):
    assert "".join("".join(split_sentences(text, language)).split()) == "".join(text.split())


def test_a_long_text_takes_no_long():
    text = "word. Another! " * 20000
    assert first_sentences(text, 39_999, "en") == text[:-10].rstrip()


@pytest.mark.parametrize(
    ("language", "bare", "text"),
    [
        ("en", ["Keeps bees", "Is 40."], "Keeps bees. Is 40."),
        ("zh", ["养猫", "住在上海。", "爱吃面！"], "养猫。住在上海。爱吃面！"),
        ("ja", ["猫を飼う", "「はい」と言う"], "猫を飼う。「はい」と言う。"),
        ("hi", ["गाय पालता है", "दिल्ली में रहता है।"], "गाय पालता है। दिल्ली में रहता है।"),
        ("ar", ["يربي النحل", "عمره 40 سنة"], "يربي النحل. عمره 40 سنة."),
        ("th", ["เลี้ยงแมว", "อยู่เชียงใหม่"], "เลี้ยงแมว\nอยู่เชียงใหม่"),
        ("km", ["ចិញ្ចឹមឆ្មា", "រស់នៅភ្នំពេញ"], "ចិញ្ចឹមឆ្មា។ រស់នៅភ្នំពេញ។"),
    ],
)
def test_sentences_become_a_text_and_are_found_in_it_again(language, bare, text):
    sentences = [finished(sentence) for sentence in bare]
    assert joined(sentences) == text
    assert split_sentences(text, language) == sentences
