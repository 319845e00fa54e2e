"""Converts an official-format checkpoint with llama.cpp's own converter, its vocabulary step apart.

Usage: convert.py SOURCE_OF_LLAMA_CPP [arguments of convert_hf_to_gguf.py]

That step knows a tokenizer by the ids it gives to one text, and llama.cpp loads no byte-level vocabulary without merges;
a synthetic one is not on the list and has none. Here the tokens come from the tokenizer.json beside the weights, the
family is named outright, and one merge of two bytes stands in. None of it touches what is timed.
"""

import json
import runpy
import sys
from pathlib import Path

PRE_TOKENIZER = "deepseek-v3"


def tokens_and_types(model):
    """Tokens by id and their types; ids that the tokenizer leaves out are filled."""
    import gguf

    tokenizer = json.loads((model.dir_model / "tokenizer.json").read_text(encoding="utf-8"))
    by_id = {number: token for token, number in tokenizer["model"]["vocab"].items()}
    types = dict.fromkeys(by_id, gguf.TokenType.NORMAL)
    for added in tokenizer["added_tokens"]:
        by_id[added["id"]] = added["content"]
        types[added["id"]] = gguf.TokenType.CONTROL if added["special"] else gguf.TokenType.USER_DEFINED
    size = model.hparams["vocab_size"]
    tokens = [by_id.get(number, f"[PAD{number}]") for number in range(size)]
    return tokens, [types.get(number, gguf.TokenType.UNUSED) for number in range(size)]


def set_vocab(model):
    """What `TextModel._set_vocab_gpt2` writes."""
    tokens, types = tokens_and_types(model)
    writer = model.gguf_writer
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(PRE_TOKENIZER)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(["t h"])
    writer.add_bos_token_id(model.hparams["bos_token_id"])
    writer.add_eos_token_id(model.hparams["eos_token_id"])


def main():
    source = Path(sys.argv[1])
    converter = source / "convert_hf_to_gguf.py"
    sys.path[:0] = [str(source), str(source / "gguf-py")]
    from conversion.deepseek import DeepseekV4Model

    DeepseekV4Model.set_vocab = set_vocab
    sys.argv = [str(converter), *sys.argv[2:]]
    runpy.run_path(str(converter), run_name="__main__")


if __name__ == "__main__":
    main()
