import pickle
from pathlib import Path

import pytest
from languages import CHINESE
from scripted_runs import scripted_values

from aloe.cli import main
from aloe.config import Config
from aloe.config.language import ENGLISH, language_of
from aloe.config_file import dump_config
from aloe.errors import UserError
from aloe.prompt_folders import OWNERS, built_in_folder, built_in_names
from aloe.roles import BUILT_IN, Prompts, prompts_of
from aloe.schema import stable_id


@pytest.fixture
def values(tmp_path):
    return CHINESE.values(tmp_path / "zh")


def prompts(values):
    return prompts_of(Config.model_validate(values))


@pytest.mark.parametrize("owner", OWNERS)
def test_versions_of_english_runs_are_those_of_before(owner):
    files = sorted(built_in_folder(owner).glob("*.jinja"))
    texts = [(file.name, file.read_text(encoding="utf-8")) for file in files]
    assert BUILT_IN.version(owner) == stable_id(texts)
    assert BUILT_IN.settings() == {}


@pytest.mark.parametrize("owner", OWNERS)
def test_other_templates_and_other_languages_are_other_versions(owner, values):
    own, german = prompts(values), Prompts(language_of("de"))
    assert len({version.version(owner) for version in (BUILT_IN, own, german)}) == 3
    texts = {name: (built_in_folder(owner) / name).read_text() for name in built_in_names(owner)}
    assert Prompts(ENGLISH, {owner: texts}).version(owner) == BUILT_IN.version(owner)
    changed = texts | {built_in_names(owner)[0]: "Other words."}
    assert Prompts(ENGLISH, {owner: changed}).version(owner) != BUILT_IN.version(owner)


@pytest.mark.parametrize("owner", OWNERS)
def test_a_copy_of_the_built_in_folder_is_what_is_built_in(owner, tmp_path):
    values = scripted_values(tmp_path)
    values[owner] |= {"prompts": str(built_in_folder(owner))}
    assert prompts(values).version(owner) == BUILT_IN.version(owner)


@pytest.mark.parametrize("owner", OWNERS)
def test_built_in_templates_tell_another_language(owner):
    german = Prompts(language_of("de"))
    for file in (built_in_folder(owner) / "any_language").glob("*.jinja"):
        text = file.read_text(encoding="utf-8")
        assert "{{ language }}" in text and file.name in built_in_names(owner)
    if owner == "dialogue":
        start = german.render("dialogue/prompts/user_start.jinja")
        assert "German" in start and "What's on your mind" not in start
        system = german.render("dialogue/prompts/reply_system.jinja")
        assert system.startswith(BUILT_IN.render("dialogue/prompts/reply_system.jinja"))


BROKEN = [
    ("dialogue", "user_start.jinja", None, "no user_start.jinja"),
    ("personas", "ask.jinja", "{{ count }", "ask.jinja, line 1"),
    ("personas", "ask.jinja", "{{ count }}\n{% if %}", "ask.jinja, line 2"),
    ("personas", "ask.jinja", "{{ counts }}", "unknown variable counts, expected some of count"),
    ("personas", "ask.jinja", "{{ count | nothing }}", "line 1: No filter named 'nothing'"),
    ("personas", "profile_system.jinja", " {# x #}", "comes out empty"),
    ("dialogue", "user_system.jinja", "Hi {{ persona.profil }}", "has no attribute 'profil'"),
    ("dialogue", "user_system.jinja", "{{ persona.profile }}", "persona.personality"),
    ("dialogue", "reply_hint.jinja", "{{ hint.profile }}", "hint.personality"),
    ("dialogue", "judge_question.jinja", "{{ history }}{{ first }}", "nothing is made of second"),
    ("dialogue", "inducer_question.jinja", "Notes:", "the content of history"),
    ("dialogue", "inducer_question.jinja", "{{ 1 // 0 }}", "ZeroDivisionError"),
    ("dialogue", "reply_system.jinja", "{% include 'style.jinja' %}", "style.jinja"),
    ("dialogue", "reply_system.jinja", "{{ ''.__class__.__mro__ }}", "unsafe"),
    ("evaluation", "score.jinja", "{{ profile }} {{ personality }} {{ history }}", "reply"),
    ("evaluation", "score.jinja", b"\xff", "UTF-8"),
]


@pytest.mark.parametrize(("owner", "name", "text", "told"), BROKEN)
def test_a_template_that_cannot_be_used_is_one_line(values, owner, name, text, told):
    file = Path(values[owner]["prompts"]) / name
    if text is None:
        file.unlink()
    else:
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError) as refused:
        prompts(values)
    message = str(refused.value)
    assert told in message and name in message and message.startswith(f"{owner}.prompts: ")
    assert "\n" not in message


def test_a_folder_that_is_none_is_one_line(values, tmp_path):
    values["dialogue"]["prompts"] = str(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"dialogue\.prompts: .*nowhere is no folder"):
        prompts(values)


def test_a_run_ends_before_anything_starts(values, tmp_path, capsys):
    (Path(values["dialogue"]["prompts"]) / "judge_system.jinja").write_text("{{ persona.life }}")
    (tmp_path / "run.yaml").write_text(dump_config(Config.model_validate(values)))
    with pytest.raises(SystemExit) as ended:
        main(["run", str(tmp_path / "run.yaml")])
    assert ended.value.code == 2
    assert "dialogue.prompts: judge_system.jinja" in capsys.readouterr().err
    assert not Path(values["run"]["dir"]).exists()


def test_templates_include_others_of_their_folder(values):
    folder = Path(values["dialogue"]["prompts"])
    (folder / "style.jinja").write_text("请用{{ language }}。", encoding="utf-8")
    (folder / "reply_system.jinja").write_text("{% include 'style.jinja' %}", encoding="utf-8")
    found = prompts(values)
    assert found.render("dialogue/prompts/reply_system.jinja") == "请用Chinese。"
    assert pickle.loads(pickle.dumps(found)).version("dialogue") == found.version("dialogue")
