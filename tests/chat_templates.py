"""Chat templates of the shapes that families of models have, written in this tokenizer's marks.

The shapes are facts: what is taken, what is refused, what is written around a reply. `<|im_start|>`
and `<|im_end|>` stand for each family's own marks, so that the tiny model can be run with them.
"""

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}<|im_start|>{{ m['role'] }}<|im_start|>\n\n"
    "{{ m['content'] | trim }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant<|im_start|>\n\n{% endif %}"
)

QWEN25 = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nBe of help.<|im_end|>\n{% endif %}"
    + CHATML
)

QWEN3 = """\
{%- set last = namespace(at=-1) -%}
{%- for m in messages -%}
{%- if m['role'] == 'user' -%}{%- set last.at = loop.index0 -%}{%- endif -%}
{%- endfor -%}
{%- for m in messages -%}
{%- if m['role'] != 'assistant' -%}
{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}
{%- else -%}
{{ '<|im_start|>assistant\n' }}
{%- if loop.index0 > last.at -%}
{{ '<think>\n' + (m['reasoning_content'] or '') + '\n</think>\n\n' }}
{%- endif -%}
{{ m['content'].split('</think>')[-1].lstrip('\n') + '<|im_end|>\n' }}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{ '<|im_start|>assistant\n' }}
{%- if enable_thinking is defined and not enable_thinking -%}
{{ '<think>\n\n</think>\n\n' }}
{%- endif -%}
{%- endif -%}
"""

GEMMA = """\
{{- bos_token -}}
{%- if messages[0]['role'] == 'system' -%}{{ raise_exception('no system role here') }}{%- endif -%}
{%- for m in messages -%}
{%- if (m['role'] == 'user') != (loop.index0 % 2 == 0) -%}
{{ raise_exception('roles must take turns: user, assistant, user...') }}
{%- endif -%}
{%- set role = 'model' if m['role'] == 'assistant' else m['role'] -%}
{{ '<|im_start|>' + role + '\n' + m['content'] | trim + '<|im_end|>\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>model\n' }}{%- endif -%}
"""

_MISTRAL = """\
{{- bos_token -}}
{%- set told = messages[0]['content'] + '\n\n' if messages[0]['role'] == 'system' else '' -%}
{%- set turns = messages[1:] if told else messages -%}
{%- for m in turns -%}
{%- if (m['role'] == 'user') != (loop.index0 % 2 == 0) -%}
{{ raise_exception('user and assistant must take turns') }}
{%- endif -%}
{%- if m['role'] == 'user' -%}
{{ '[INST] ' + (told if WHERE else '') + m['content'] + ' [/INST]' }}
{%- else -%}
{{ ' ' + m['content'] + '<|im_end|>' }}
{%- endif -%}
{%- endfor -%}
"""
MISTRAL_FIRST = _MISTRAL.replace("WHERE", "loop.first")
MISTRAL_LAST = _MISTRAL.replace("WHERE", "loop.last")

PHI = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% else %}{{ eos_token }}{% endif %}"
)

R1 = """\
{{- bos_token -}}
{%- for m in messages -%}
{%- if m['role'] == 'system' -%}{{ m['content'] }}
{%- elif m['role'] == 'user' -%}{{ '<|im_start|>User' + m['content'] }}
{%- else -%}{{ '<|im_start|>Assistant' + m['content'].split('</think>')[-1] + '<|im_end|>' }}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>Assistant<think>\n' }}{%- endif -%}
"""

SHAPES = {
    "chatml": CHATML,
    "llama3": LLAMA3,
    "qwen2.5": QWEN25,
    "qwen3": QWEN3,
    "gemma": GEMMA,
    "mistral-first": MISTRAL_FIRST,
    "mistral-last": MISTRAL_LAST,
    "phi": PHI,
    "r1": R1,
}
"""By family: one template of each shape."""

GROWING = {"chatml", "llama3", "qwen2.5", "gemma", "mistral-first", "phi"}
"""Those in which a later prompt begins with an earlier one and its reply, as it was said."""

LINE_END = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}\n<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""A line ends between what is said and its end of turn."""

PARTS = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% for p in m['content'] %}{% if p['type'] == 'text' %}{{ p['text'] }}{% endif %}{% endfor %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""What is said is a list of parts, as where pictures may be among them."""

SPACES = {"mistral-first": " ", "mistral-last": " "}
"""White space that a template writes between a prompt and its reply."""
