"""Times transformers' DeepSeek-V4 on a given shape: bf16, eager, random weights of its own.

Usage: torch_eager.py CONFIG.JSON THREADS; answers with one JSON document, or ends with status 3 if transformers
(5.23 or newer) or torch is absent.
"""

import json
import statistics
import sys
import time
from pathlib import Path

ABSENT = 3
PREFILLS = (512, 4096)
DECODED = 128
REPEAT = 3

try:
    import torch
    import transformers
    from transformers import DeepseekV4Config, DeepseekV4ForCausalLM
except ImportError as error:
    print(error, file=sys.stderr)
    sys.exit(ABSENT)

STORAGE_ONLY = ("quantization_config", "expert_dtype", "torch_dtype")


def make(path):
    """A model of the shape. Its hash tables begin as zeros, which would send every token to one expert."""
    values = json.loads(Path(path).read_text(encoding="utf-8"))
    config = DeepseekV4Config.from_dict({k: v for k, v in values.items() if k not in STORAGE_ONLY})
    config._attn_implementation = "eager"
    config._experts_implementation = "eager"
    torch.manual_seed(0)
    model = DeepseekV4ForCausalLM(config).to(torch.bfloat16).eval()
    for name, table in model.named_buffers():
        if name.endswith("tid2eid"):
            table.copy_(torch.rand(len(table), config.n_routed_experts).argsort(dim=1)[:, : table.shape[1]])
    return model


def prefill(model, ids):
    start = time.perf_counter()
    model(ids, use_cache=True, logits_to_keep=1)
    return ids.shape[1] / (time.perf_counter() - start)


def decode(model, ids):
    past = model(ids[:, :1], use_cache=True).past_key_values
    start = time.perf_counter()
    for token in ids[0, 1:]:
        past = model(token.view(1, 1), past_key_values=past, use_cache=True).past_key_values
    return (ids.shape[1] - 1) / (time.perf_counter() - start)


def timed(run, model, tokens):
    """The median of a few runs, after one that is not counted."""
    ids = torch.randint(model.config.vocab_size, (1, tokens))
    run(model, ids)
    return statistics.median(run(model, ids) for _ in range(REPEAT))


def main():
    torch.set_num_threads(int(sys.argv[2]))
    model = make(sys.argv[1])
    with torch.inference_mode():
        speeds = {f"tiny prefill {tokens}": timed(prefill, model, tokens) for tokens in PREFILLS}
        speeds[f"tiny decode {DECODED}"] = timed(decode, model, DECODED + 1)
    versions = f"transformers {transformers.__version__}, torch {torch.__version__}"
    print(json.dumps({"versions": versions, "tokens_per_s": speeds}))


if __name__ == "__main__":
    version = tuple(int(part) for part in transformers.__version__.split(".")[:2])
    if version < (5, 23):
        print(f"transformers {transformers.__version__} is older than 5.23", file=sys.stderr)
        sys.exit(ABSENT)
    main()
