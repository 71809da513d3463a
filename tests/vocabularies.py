"""Tokenizers of the paper's model families, made from what packages carry.

The vocabularies of Llama 3, Qwen3 and gpt-oss are in quicktok-v1, the chat templates of all four families in trl. Both
packages are read as files and never imported (containers/locks/vocabularies.txt). No package has Gemma's vocabulary:
the one here is made up, and only what transformers does around it is Gemma's.
"""

import ast
import struct
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, files
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import regex
from tokenizers import AddedToken, processors
from transformers import GemmaTokenizer, PreTrainedTokenizerFast, Qwen2Tokenizer
from transformers.convert_slow_tokenizer import TikTokenConverter

BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
PRINTABLE = [chr(code) for code in range(33, 127)]
PAIRS = ["\n\n", "▁▁"]


@dataclass(frozen=True)
class Source:
    """Where a family's tokenizer comes from.

    template      a file of trl
    vocabulary    a file of quicktok-v1; None for Gemma
    pattern       a constant of quicktok-v1: the regular expression that cuts text before merging
    """

    template: str
    vocabulary: str | None = None
    pattern: str | None = None


SOURCES = {
    "llama": Source("llama3_2", "llama3", "LLAMA3_PAT"),
    "qwen3": Source("qwen3", "qwen3", "QWEN_PAT"),
    "gemma": Source("gemma3"),
    "gpt-oss": Source("gptoss", "o200k_harmony", "O200K_PAT"),
}
GEMMA_SPECIAL = ["<bos>", "<start_of_turn>", "<end_of_turn>"]


def package_file(package: str, ending: str) -> Path:
    """The one file of an installed package whose path ends so."""
    try:
        found = [file for file in files(package) or [] if file.as_posix().endswith(ending)]
    except PackageNotFoundError:
        raise FileNotFoundError(f"package {package} is not installed; run `make setup`")
    if len(found) != 1:
        raise FileNotFoundError(f"package {package} has {len(found)} files {ending}, expected one")
    return Path(str(found[0].locate()))


@cache
def ranks(vocabulary: str) -> dict[bytes, int]:
    """The bytes of every token that is not special, with its id; of two tokens the lower id merges first."""
    name = "o200k" if vocabulary.startswith("o200k") else vocabulary
    content = package_file("quicktok-v1", f"/{name}.vocab").read_bytes()
    found, at = {}, 4
    while at < len(content):
        (length,) = struct.unpack_from("<H", content, at)
        token = content[at + 2 : at + 2 + length]
        (found[token],) = struct.unpack_from("<I", content, at + 2 + length)
        at += 6 + length
    assert len(found) == struct.unpack_from("<I", content)[0]
    return found


@cache
def specials(vocabulary: str) -> dict[str, int]:
    """The special tokens with their ids, in the order of the ids.

    Those of Llama are of its first version: 3.2 has given some of the reserved ones, which no prompt has, other names.
    """
    content = package_file("quicktok-v1", f"/{vocabulary}.special").read_bytes()
    found, at = {}, 4
    while at < len(content):
        token, length = struct.unpack_from("<IH", content, at)
        found[content[at + 6 : at + 6 + length].decode()] = token
        at += 6 + length
    assert len(found) == struct.unpack_from("<I", content)[0]
    return dict(sorted(found.items(), key=lambda item: item[1]))


@cache
def pattern(name: str) -> str:
    """A constant of quicktok-v1's source."""
    tree = ast.parse(package_file("quicktok-v1", "/_import_core.py").read_text(encoding="utf-8"))
    assigned = {ast.unparse(node.targets[0]): node.value for node in tree.body if isinstance(node, ast.Assign)}
    return ast.literal_eval(assigned[name])


@cache
def make_tokenizer(family: str) -> Any:
    """The family's tokenizer with its chat template, as transformers would load it from the hub."""
    tokenizer = {"llama": _llama, "qwen3": _qwen3, "gemma": _gemma, "gpt-oss": _gpt_oss}[family]()
    template = package_file("trl", f"/chat_templates/{SOURCES[family].template}.jinja")
    tokenizer.chat_template = template.read_text(encoding="utf-8")
    return tokenizer


class _Converter(TikTokenConverter):
    """transformers' own way from a vocabulary whose ids are its order of merging to a tokenizer."""

    load_tiktoken_bpe = staticmethod(ranks)


def _llama() -> PreTrainedTokenizerFast:
    bos = "<|begin_of_text|>"
    # The pattern that the converter has by itself is Llama's.
    fast: Any = _Converter("llama3", extra_special_tokens=list(specials("llama3"))).converted()
    begin = processors.TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, specials("llama3")[bos])])
    fast.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), begin])
    return PreTrainedTokenizerFast(tokenizer_object=fast, bos_token=bos, eos_token="<|eot_id|>")


def _gpt_oss() -> PreTrainedTokenizerFast:
    names = list(specials("o200k_harmony"))
    fast = _Converter("o200k_harmony", pattern("O200K_PAT"), extra_special_tokens=names).converted()
    roles = {"bos_token": "<|startoftext|>", "eos_token": "<|return|>", "pad_token": "<|endoftext|>"}
    return PreTrainedTokenizerFast(tokenizer_object=fast, **roles)


def _qwen3() -> Qwen2Tokenizer:
    vocabulary, merges = _Converter().extract_vocab_merges_from_model("qwen3")
    make: Any = Qwen2Tokenizer  # declared to take merges as strings only
    tokenizer = make(vocabulary, merges)
    # <think>, </think> and the marks of tool calls and code are added but not special: a decoded text keeps them.
    special = specials("qwen3")
    kept = special["<tool_call>"]
    tokenizer.add_tokens([AddedToken(name, special=token < kept, normalized=False) for name, token in special.items()])
    tokenizer.eos_token = "<|im_end|>"
    return tokenizer


@cache
def _gemma_vocabulary() -> dict[str, int]:
    """Made up: single characters and bytes, two merges, and the special tokens where Gemma 3 has them."""
    first = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *(f"<unused{place}>" for place in range(100))]
    turns = ["<start_of_turn>", "<end_of_turn>"]
    return {token: place for place, token in enumerate([*first, *turns, "\n", "▁", *PAIRS, *BYTES, *PRINTABLE])}


def _gemma() -> GemmaTokenizer:
    make: Any = GemmaTokenizer
    tokenizer = make(dict(_gemma_vocabulary()), [tuple(pair) for pair in PAIRS], add_bos_token=True)
    tokenizer.add_tokens([AddedToken(name, special=True, normalized=False) for name in GEMMA_SPECIAL])
    return tokenizer


def reference_tokens(family: str, text: str) -> list[int]:
    """The tokens of a text, special ones included, by the definition: cut it, then merge the pair of lowest rank."""
    source = SOURCES[family]
    if source.vocabulary is None or source.pattern is None:
        vocabulary = _gemma_vocabulary()
        pieces = regex.findall("|".join([*GEMMA_SPECIAL, *PAIRS, "."]), text.replace(" ", "▁"), regex.DOTALL)
        parts = [[piece] if piece in vocabulary else [BYTES[byte] for byte in piece.encode()] for piece in pieces]
        return [vocabulary[part] for part in chain.from_iterable(parts)]
    special, tokens = specials(source.vocabulary), []
    for part in regex.split(f"({'|'.join(map(regex.escape, special))})", text):
        if part in special:
            tokens.append(special[part])
            continue
        for piece in regex.findall(pattern(source.pattern), part):
            tokens += _merge(piece.encode(), ranks(source.vocabulary))
    return tokens


def _merge(piece: bytes, rank: dict[bytes, int]) -> list[int]:
    parts = [bytes([byte]) for byte in piece]
    while True:
        pairs = [(rank[a + b], place) for place, (a, b) in enumerate(pairwise(parts)) if a + b in rank]
        if not pairs:
            return [rank[part] for part in parts]
        _, place = min(pairs)
        parts[place : place + 2] = [parts[place] + parts[place + 1]]
