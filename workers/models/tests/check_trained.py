"""Loads model directories with transformers and compares losses and token ids with ours.

Usage: python check_trained.py CHECK.json [CHECK.json ...]

A check is an object: `folder`, `texts`, `ids` (ours, of each text), `sequences` (token ids), `losses` (ours, of
every token of a sequence but the first, in nats). Prints the largest difference; exits 1 where it is above 2e-5
per token, or where ids differ.
"""

import json
import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

LIMIT = 2e-5


def check(path):
    with open(path, encoding="utf-8") as file:
        expected = json.load(file)
    folder = expected["folder"]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for text, ids in zip(expected["texts"], expected["ids"], strict=True):
        theirs = tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        if theirs != ids:
            print(f"{folder}: ids of {text[:80]!r}: transformers {theirs}, ours {ids}")
            return False
    model, report = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    if report["missing_keys"] or report["unexpected_keys"] or report["mismatched_keys"]:
        print(f"{folder}: weights do not fit: {report}")
        return False
    # Double: what is compared is our arithmetic, not that of torch in f32.
    model = model.double().eval()
    largest = 0.0
    for ids, losses in zip(expected["sequences"], expected["losses"], strict=True):
        ids = torch.tensor([ids])
        with torch.no_grad():
            logits = model(ids).logits[0, :-1]
        theirs = torch.nn.functional.cross_entropy(logits.double(), ids[0, 1:], reduction="none")
        largest = max(largest, (theirs - torch.tensor(losses, dtype=torch.float64)).abs().max().item())
    print(f"{folder}: {type(model).__name__}, largest difference {largest:.2e} nats per token")
    return largest <= LIMIT


def main():
    torch.set_num_threads(1)
    results = [check(path) for path in sys.argv[1:]]
    return 0 if results and all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
