import json

import pytest
from languages import ARABIC, CHINESE
from scripted_runs import scripted_values

from aloe.config import Config
from aloe.config.language import language_of
from aloe.engines import Completion
from aloe.errors import UserError
from aloe.personas.lexicon import KINDS, Lexicon
from aloe.personas.seeds import read_seeds
from aloe.personas.stage import check_personas, starting_texts
from aloe.personas.writing import read_candidates, writing_request
from aloe.roles import Prompts, prompts_of
from aloe.roles.sentences import joined, split_sentences

THAI = """\
ขายดอกไม้ที่ตลาด
จบมัธยมต้น
อยู่ห้องเช่าริมคลอง
มีน้องสาวสองคน
ร้องเพลงในวัด
กินส้มตำทุกวัน
มีจักรยานเก่า
ตื่นตีห้า
อายุสี่สิบปี
""".splitlines()
HINDI = """\
पुणे में बस चलाता है।
दसवीं तक पढ़ा है।
माँ के साथ रहता है।
उसकी दो बेटियाँ हैं।
धीरे धीरे बाँसुरी सीखता है।
रोज़ पोहा खाता है।
एक पुरानी साइकिल है।
सुबह जल्दी उठता है।
वह बयालीस साल का है।
""".splitlines()
INDONESIAN = """\
Menjual kue di pasar.
Tamat sekolah menengah.
Tinggal bersama anak-anak tetangga.
Punya dua adik.
Bermain gitar tua.
Makan gado-gado tiap hari.
Punya sepeda merah.
Bangun pagi-pagi.
Berumur 40 tahun.
""".splitlines()
GERMAN = """\
Backt Brot in Kiel.
Kommt von weit her.
Wohnt über dem Laden.
Hat zwei Töchter.
Singt im Chor an.
Isst gern Fisch.
Fährt ein altes Rad.
Steht um fünf auf.
Sagt dann: so was.
""".splitlines()
OF = {"zh": CHINESE.facts, "ar": ARABIC.facts, "th": THAI, "hi": HINDI, "id": INDONESIAN}
OF |= {"de": GERMAN}


def completion(*texts):
    return Completion(json.dumps({"profiles": list(texts)}), "m", "stop", 1, 0, 1, 0.0)


def verdict(tag, sentences):
    (candidate,) = read_candidates("profile", completion(sentences), Prompts(language_of(tag)))
    return candidate["verdict"]


@pytest.mark.parametrize("tag", OF)
def test_what_is_written_well_is_kept_as_it_was_written(tag):
    prompts, sentences = Prompts(language_of(tag)), list(OF[tag])
    (candidate,) = read_candidates("profile", completion(sentences), prompts)
    assert candidate == {"text": joined(sentences), "verdict": ""}
    assert split_sentences(candidate["text"], tag) == sentences


@pytest.mark.parametrize("tag", OF)
def test_what_goes_round_in_circles_is_seen(tag):
    assert verdict(tag, [OF[tag][0]] * 9) == "garbled"
    assert verdict(tag, list(OF[tag][:3])) == "malformed"


def test_a_full_stop_is_that_of_the_script():
    sentences = [fact.rstrip("。") for fact in CHINESE.facts]
    (candidate,) = read_candidates("profile", completion(sentences), Prompts(language_of("zh")))
    assert candidate["text"] == "".join(CHINESE.facts)


def test_english_words_forbid_nothing_in_another_language():
    sentences = ["Es un actor modesto y timid.", *(f"Frase de número {n}x{n}." for n in range(8))]
    assert verdict("es", sentences) == verdict("en-GB", sentences).replace("off_topic", "")


@pytest.mark.parametrize("spoken", [CHINESE, ARABIC], ids=lambda spoken: spoken.tag)
def test_a_folder_may_name_what_must_not_be_there(spoken, tmp_path):
    prompts = prompts_of(Config.model_validate(spoken.values(tmp_path)))
    lexicon = Lexicon(prompts)
    assert lexicon.knows("profile") and not lexicon.knows("personality")
    assert lexicon.off_topic("profile", f"{spoken.facts[0]} {spoken.nobody}.") == spoken.nobody
    assert lexicon.off_topic("profile", spoken.facts[0]) is None
    assert lexicon.off_topic("personality", spoken.nobody) is None
    inside = lexicon.off_topic("profile", f"{spoken.nobody}{spoken.nobody}")
    assert inside == (spoken.nobody if spoken is CHINESE else None)


@pytest.mark.parametrize("kind", KINDS)
def test_the_writer_is_asked_without_a_word_of_english(kind, tmp_path):
    config = Config.model_validate(CHINESE.values(tmp_path))
    shown = starting_texts(config)[kind][0]["candidates"]
    texts = [candidate["text"] for candidate in shown[:2]]
    request = writing_request(kind, texts, config.personas, 1, prompts_of(config))
    keys = {"profile": "profiles", "personality": "personalities"}
    said = " ".join(message["content"] for message in request.messages).replace(keys[kind], "")
    assert not any(character.isascii() and character.isalpha() for character in said)
    answers = [m["content"] for m in request.messages if m["role"] == "assistant"]
    assert [joined(json.loads(answer)[keys[kind]][0]) for answer in answers] == texts


def test_seeds_may_be_texts_or_lists_and_in_a_table(tmp_path):
    seeds = {"profile": ["住在上海。", "养猫。"], "personality": ["害羞。"]}
    lines = [
        {"kind": "profile", "text": "住在上海。", "more": 1},
        {"kind": "personality", "text": ["害羞"]},
        {"kind": "profile", "text": "养猫。"},
    ]
    jsonl, csv = tmp_path / "seeds.jsonl", tmp_path / "seeds.csv"
    jsonl.write_text("\n\n".join(map(json.dumps, lines)), encoding="utf-8")
    csv.write_text(
        "text,kind\n住在上海。,profile\n害羞。,personality\n养猫。,profile\n", encoding="utf-8"
    )
    assert read_seeds(str(jsonl)) == read_seeds(str(csv)) == seeds


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "no profile there"),
        ('{"kind": "profile", "text": "A."}', "no personality there"),
        ('{"kind": "person", "text": "A."}', "seeds.jsonl:1: kind is 'person'"),
        ('{"kind": "profile"}', "no column text"),
        ('{"kind": "profile", "text": " "}', "expected some text"),
        ('{"kind": "profile", "text": []}', "expected some text"),
        ('{"kind": "profile", "text": 3}', "expected some text"),
        ('{"kind": "profile", "text": "\\ud800"}', "surrogate"),
        ('"A plain string."', "expected a JSON object"),
        ("{", "seeds.jsonl:1"),
        (b"\xff", "seeds.jsonl:1"),
    ],
)
def test_seeds_that_are_none_are_one_line(tmp_path, text, told):
    path = tmp_path / "seeds.jsonl"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=r"personas\.seeds") as refused:
        read_seeds(str(path))
    assert told in str(refused.value) and "\n" not in str(refused.value)


def test_the_built_in_seeds_join_no_pool_of_another_language(tmp_path):
    values = scripted_values(tmp_path) | {"language": "German"}
    with pytest.raises(UserError, match="expected a file with some in German"):
        check_personas(Config.model_validate(values))
    for pool in ("profiles", "personalities"):
        file = tmp_path / f"{pool}.jsonl"
        texts = [" ".join([*GERMAN[n:], *GERMAN[:n]]) for n in range(6)]
        file.write_text("\n".join(map(json.dumps, texts)), encoding="utf-8")
        values["personas"][pool] |= {"files": [str(file)]}
    starting = check_personas(Config.model_validate(values))
    for kind in KINDS:
        assert [len(outcome["candidates"]) for outcome in starting[kind]] == [0, 6]


def test_a_seed_file_takes_the_place_of_the_built_in_ones_in_english_too(tmp_path):
    values = scripted_values(tmp_path)
    values["personas"] |= {"seeds": CHINESE.values(tmp_path / "zh")["personas"]["seeds"]}
    starting = starting_texts(Config.model_validate(values))
    assert [len(starting[kind][0]["candidates"]) for kind in KINDS] == [6, 6]
