import pytest
from languages import CHINESE
from scripted_runs import scripted_values

from aloe.config import Config
from aloe.config.language import ENGLISH, language_of
from aloe.config_file import dump_config, load_config
from aloe.errors import UserError


@pytest.mark.parametrize(
    ("said", "name", "tag"),
    [
        ("English", "English", "en"),
        ("EN", "English", "en"),
        ("German", "German", "de"),
        (" german ", "German", "de"),
        ("de", "German", "de"),
        ("deu", "German", "de"),
        ("pt-BR", "Portuguese as in Brazil", "pt-BR"),
        ("pt_br", "Portuguese as in Brazil", "pt-BR"),
        ("zh-Hant", "Chinese in Han (Traditional variant) script", "zh-Hant"),
        ("Swahili", "Swahili", "sw"),
        ("Greek", "Modern Greek", "el"),
        ("Bangla", "Bengali", "bn"),
        ("Ga", "Ga", "gaa"),
        ("ga", "Irish", "ga"),
        ("yue", "Yue Chinese", "yue"),
    ],
)
def test_a_language_has_a_name_and_a_tag(said, name, tag):
    assert (language_of(said).name, language_of(said).tag) == (name, tag)
    assert language_of(tag) == language_of(said)


@pytest.mark.parametrize(
    "said", ["", "xx", "Germna", "de-ZZ", "de-Xxxx", "12", "pt-BR-x", "日本語"]
)
def test_what_is_no_language_is_refused(said):
    with pytest.raises(ValueError, match="expected"):
        language_of(said)


def test_a_slip_is_told_what_was_meant():
    with pytest.raises(ValueError, match="did you mean German"):
        language_of("Germann")


def test_english_is_the_default(tmp_path):
    config = Config.model_validate(scripted_values(tmp_path))
    assert language_of(config.language) == ENGLISH


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["--language", "Klingonese"], "language"),
        (["--personas.openings", "true"], "personas.openings"),
        (["--personas.verifiable.count", "1"], "personas.verifiable"),
    ],
)
def test_what_cannot_be_in_this_language_is_one_line(tmp_path, overrides, told):
    (tmp_path / "run.yaml").write_text(dump_config(_chinese(tmp_path)))
    with pytest.raises(UserError, match=told) as refused:
        load_config(str(tmp_path / "run.yaml"), overrides)
    assert "\n" not in str(refused.value)


def test_the_same_is_fine_in_british_english(tmp_path):
    values = scripted_values(tmp_path) | {"language": "en-GB"}
    values["personas"] |= {"openings": True, "verifiable": {"count": 1}}
    assert Config.model_validate(values).personas.openings


def test_a_resolved_configuration_holds_the_templates_and_is_read_back(tmp_path):
    (tmp_path / "run.yaml").write_text(dump_config(_chinese(tmp_path)))
    config = load_config(str(tmp_path / "run.yaml"))
    own = {"user_plan.jinja", *CHINESE.templates()["dialogue"]}
    assert set(config.dialogue.prompts) == own  # one that may be left out is there all the same
    (tmp_path / "again.yaml").write_text(dump_config(config))
    for folder in ("personas", "dialogue", "evaluation"):
        for file in (tmp_path / "zh" / folder).iterdir():
            file.unlink()
    assert load_config(str(tmp_path / "again.yaml")) == config


def _chinese(folder):
    return Config.model_validate(CHINESE.values(folder / "zh"))
