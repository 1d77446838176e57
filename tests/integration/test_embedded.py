"""The embedded checkpoints: made once, whole or not at all."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from aloe.engines.embedded import resolve_checkpoint

MAKE = "from aloe.engines.embedded import resolve_checkpoint as r; print(r('embedded://{}'))"


def start(name: str, cache: Path) -> subprocess.Popen:
    environment = os.environ | {"XDG_CACHE_HOME": str(cache)}
    command = [sys.executable, "-c", MAKE.format(name)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def last_line(process: subprocess.Popen) -> str:
    return process.communicate(timeout=180)[0].strip().splitlines()[-1]


def test_two_processes_at_once_make_one_checkpoint(tmp_path):
    both = [start("tiny", tmp_path) for _ in range(2)]
    paths = {last_line(process) for process in both}
    assert [process.returncode for process in both] == [0, 0]
    assert len(paths) == 1
    folder = Path(paths.pop())
    assert [entry.name for entry in folder.parent.iterdir()] == [folder.name]
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {
        entry.name for entry in folder.iterdir()
    }


def test_a_killed_conversion_leaves_nothing_that_looks_whole(tmp_path):
    models = tmp_path / "aloe" / "models"
    process = start("smollm2-135m", tmp_path)
    deadline = time.monotonic() + 120
    while not (models.exists() and any(models.iterdir())):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert all(entry.name.startswith(".") for entry in models.iterdir())
    again = start("smollm2-135m", tmp_path)
    path = Path(last_line(again))
    assert (path / "config.json").exists()


@pytest.mark.parametrize("name", ["tiny", "smollm2-135m"])
def test_checkpoints_load_and_their_template_smuggles_nothing_in(name):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = resolve_checkpoint(f"embedded://{name}")
    tokenizer = AutoTokenizer.from_pretrained(path)
    chat = [{"role": "user", "content": "Hello"}]
    text = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    assert text == "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    model = AutoModelForCausalLM.from_pretrained(path)
    assert model.config.vocab_size == len(tokenizer)


def test_the_converted_model_still_knows_its_language():
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = resolve_checkpoint("embedded://smollm2-135m")
    tokenizer = AutoTokenizer.from_pretrained(path)
    model = AutoModelForCausalLM.from_pretrained(path)
    chat = [{"role": "user", "content": "What is the capital of France?"}]
    inputs = tokenizer.apply_chat_template(
        chat, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    output = model.generate(**inputs, max_new_tokens=12, do_sample=False)
    assert "Paris" in tokenizer.decode(output[0])
