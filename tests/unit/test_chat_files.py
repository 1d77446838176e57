"""Chat templates that lie in files are read as they were written."""

from __future__ import annotations

import pytest
from chat_templates import CHATML
from scripted_runs import scripted_values

from aloe.chat.files import with_templates
from aloe.config import Config
from aloe.errors import UserError


def read(folder, template):
    values = scripted_values(folder)
    values["models"]["m"] = {
        "backend": "vllm",
        "path": "embedded://tiny",
        "chat_template": template,
    }
    return with_templates(Config.model_validate(values)).models["m"].chat_template


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_byte_order_mark_is_no_part_of_a_template(tmp_path, encoding):
    file = tmp_path / "template.jinja"
    file.write_text(CHATML, encoding=encoding)
    assert read(tmp_path, str(file)) == CHATML
    assert read(tmp_path, file.read_text(encoding="utf-8")) == CHATML


def test_what_is_no_template_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("Hello.")
    with pytest.raises(UserError, match="is no Jinja template"):
        read(tmp_path, str(tmp_path / "notes.txt"))
    with pytest.raises(UserError, match="cannot be read"):
        read(tmp_path, str(tmp_path / "none.jinja"))
