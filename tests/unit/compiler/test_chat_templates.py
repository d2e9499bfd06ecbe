"""Chat templates give the prompts of transformers, whatever of its sandbox they use."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizer_kinds import write_kind

from vamc_runtime.text.chat import Message, build_chat
from vamc_runtime.text.tokenizer import load_tokenizer

MESSAGES = [
    Message("system", "Be <brief> & kind."),
    Message("user", "  Hi\n你好 <|im_start|> "),
    Message("assistant", "Hello 'you'!"),
    Message("user", "And?"),
]
LOOP = "{% for m in messages %}BODY{% endfor %}"
TEMPLATES = {
    "special tokens": "{{ bos_token }}{{ eos_token }}{{ unk_token }}{{ pad_token }}{{ image_token }}{{ cls_token }}.",
    "absent tokens": "{% if cls_token is defined %}cls{% endif %}{% if pad_token is defined %}pad{% endif %}"
    "{{ cls_token is none }}{{ bos_token is defined }}",
    "generation": LOOP.replace("BODY", "{{ m.role }}:{% generation %} {{ m.content }}\n{% endgeneration %}"),
    "scope of generation": "{% set x = 1 %}{% generation %}{% set x = 2 %}{{ x }}{% endgeneration %}{{ x }}",
    "continue": LOOP.replace("BODY", "{% if loop.first %}{% continue %}{% endif %}{{ m.content }}"),
    "break": LOOP.replace("BODY", "{{ m.content }}{% if loop.index > 2 %}{% break %}{% endif %}"),
    "tojson": "{{ messages | tojson }}{{ messages[0] | tojson(indent=2) }}{{ messages | tojson(ensure_ascii=True) }}"
    "{{ {'b': 1, 'a': [1, 2]} | tojson(separators=(',', ':'), sort_keys=True) }}",
    "namespace": "{% set n = namespace(count=0, text='') %}"
    + LOOP.replace("BODY", "{% set n.count = n.count + 1 %}{% set n.text = n.text ~ m.role ~ n.count %}")
    + "{{ n.text }}",
    "dict": "{{ dict(a=1) }}{{ dict.fromkeys('ab') }}",
    "macro": "{% macro show(m, end='.') %}{{ m.role | upper }}{{ m['content'] | trim }}{{ end }}{% endmacro %}"
    + LOOP.replace("BODY", "{{ show(m) }}{{ show(m, end='!') }}"),
    "call": "{% macro box() %}[{{ caller() }}]{% endmacro %}{% call box() %}{{ 1 }}{% endcall %}",
    "white space": "a  \n  {%- for m in messages -%}\n  {{ m.role }}  \n  {% if loop.last %}\n last\n  {%- endif %}\n"
    "{% endfor %}\nz\n\n",
    "operators": "{{ 'a' * 3 ~ 1 ~ none ~ ['x'] }}{{ '%s|%5d|%%' % ('é', 7) }}{{ '{:>6}{}'.format('a', 1) }}"
    "{{ 2 ** 10 + 7 % 4 }}{{ [1] + [2] }}{{ 'a' + 'b' }}{{ 1.5 * 2 }}",
    "methods": "{{ 'a-b'.replace('-', '+') | center(9) }}{{ ['a', 'b'] | join('; ') }}{{ '+'.join('abc') }}",
    "filters": LOOP.replace("BODY", "{{ m.content | replace('i', 'I') | indent(4) | e }}{{ m.content.split()[0] }}"),
    "tools": "{{ tools is none }}{{ documents is none }}{{ add_generation_prompt }}{{ no is defined }}{{ no }}",
    "year": "{{ strftime_now('%Y') }}",
    "recursion": "{% for x in [[1, [2, [3]]]] recursive %}{{ x if x is number else loop(x) }},{% endfor %}",
    "globals": "{% set c = cycler(1, 2) %}{{ c.next() }}{{ c.next() }}{{ lipsum is defined }}{{ range(3) | list }}",
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_kind("byte_level_extra", tmp_path_factory.mktemp("chat"))


def prompts(folder: Path, template: Any) -> tuple[list[int], list[int]]:
    """The runtime's prompt, and that of transformers."""
    from transformers import AutoTokenizer

    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**config, "pad_token": "<|eot|>", "chat_template": template}), encoding="utf-8")
    reference = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    messages = [vars(message) for message in MESSAGES]
    expected = reference.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=False)
    return build_chat(folder, load_tokenizer(folder)).render(MESSAGES, 10_000), expected


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_prompt_is_transformers(checkpoint: Path, name: str) -> None:
    found, expected = prompts(checkpoint, TEMPLATES[name])
    assert found == expected


def test_the_file_that_wins(checkpoint: Path) -> None:
    named = [{"name": "other", "template": "o"}, {"name": "default", "template": "named"}]
    found, expected = prompts(checkpoint, named)
    assert found == expected
    (checkpoint / "chat_template.jinja").write_bytes(b"file\r\n{{ bos_token }}\r\n")
    (checkpoint / "additional_chat_templates").mkdir()
    (checkpoint / "additional_chat_templates/tool_use.jinja").write_text("tools", encoding="utf-8")
    found, expected = prompts(checkpoint, named)
    assert found == expected
