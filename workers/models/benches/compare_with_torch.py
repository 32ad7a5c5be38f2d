"""Tokens per second of this crate and of torch: same model, same tokens, same number of threads,
taking turns in one run.

    compare_with_torch.py BENCH_PROGRAM [ROUNDS [THREADS...]]

A Llama-like model of 125M parameters with random weights (12 layers, width 768, 12 heads,
vocabulary 50,304), batch 8, length 512; losses of all positions. Needs torch, transformers,
safetensors, tokenizers.
"""
import json, os, shutil, statistics, subprocess, sys, tempfile, time
import torch
from transformers import LlamaConfig, LlamaForCausalLM

BATCH, LENGTH, VOCABULARY = 8, 512, 50304
LAYERS = 12
# What `continue(...)` leaves as it is.
FROZEN = LAYERS // 3


def prepare(directory):
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=VOCABULARY, hidden_size=768, intermediate_size=2048, num_hidden_layers=LAYERS,
                         num_attention_heads=12, num_key_value_heads=12, max_position_embeddings=2048,
                         tie_word_embeddings=True, rms_norm_eps=1e-5, bos_token_id=None, eos_token_id=0)
    model = LlamaForCausalLM(config).eval()
    model.save_pretrained(directory)
    tokenizer = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
                 "pre_tokenizer": {"type": "Whitespace"}, "post_processor": None, "decoder": None,
                 "model": {"type": "WordLevel", "vocab": {"<|endoftext|>": 0, "a": 1}, "unk_token": "a"}}
    with open(os.path.join(directory, "tokenizer.json"), "w") as file:
        json.dump(tokenizer, file)
    tokens = torch.randint(0, VOCABULARY, (BATCH, LENGTH))
    with open(os.path.join(directory, "tokens.u32"), "wb") as file:
        file.write(tokens.to(torch.int32).numpy().tobytes())
    second(directory, "continued", FROZEN)
    second(directory, "other", 0)
    return model, tokens


def second(directory, name, frozen):
    """A model in which all but the first layers, and the embedding with them, are others."""
    model = LlamaForCausalLM.from_pretrained(directory)
    with torch.no_grad():
        for i, layer in enumerate(model.model.layers):
            for parameter in layer.parameters():
                if i >= frozen:
                    parameter.mul_(1.01)
        if not frozen:
            model.model.embed_tokens.weight.mul_(1.01)
    model.save_pretrained(os.path.join(directory, name))
    shutil.copy(os.path.join(directory, "tokenizer.json"), os.path.join(directory, name))


def of_torch(model, tokens):
    with torch.inference_mode():
        start, busy = time.perf_counter(), time.process_time()
        logits = model(tokens, use_cache=False).logits[:, :-1]
        losses = torch.nn.functional.cross_entropy(
            logits.reshape(-1, VOCABULARY).float(), tokens[:, 1:].reshape(-1), reduction="none")
        seconds, busy = time.perf_counter() - start, time.process_time() - busy
    return tokens.numel() / seconds, tokens.numel() / busy, losses.double().mean().item()


def of_ours(program, directory, kind, threads, *rest):
    tokens = os.path.join(directory, "tokens.u32")
    words = [program, directory, tokens, kind, str(threads), "0.1", *rest]
    out = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    return tuple(map(float, out.split()))


if __name__ == "__main__":
    program, rounds = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 3
    with tempfile.TemporaryDirectory() as directory:
        model, tokens = prepare(directory)
        halved = LlamaForCausalLM.from_pretrained(directory, dtype=torch.bfloat16).eval()
        for threads in [int(n) for n in sys.argv[3:]] or (1, 2):
            torch.set_num_threads(threads)
            kinds = {
                "torch f32": lambda: of_torch(model, tokens),
                "ours f32": lambda: of_ours(program, directory, "f32", threads),
                "torch bf16": lambda: of_torch(halved, tokens),
                "ours bf16": lambda: of_ours(program, directory, "bf16", threads),
                "ours f32, two models": lambda: of_ours(program, directory, "f32", threads, os.path.join(directory, "other")),
                f"ours f32, two models, {FROZEN} layers in common": lambda: of_ours(
                    program, directory, "f32", threads, os.path.join(directory, "continued")),
            }
            speeds = {kind: [] for kind in kinds}
            for _ in range(rounds):
                for kind, run in kinds.items():
                    wall, busy, mean = run()
                    speeds[kind].append((wall, busy))
                    print(f"  {threads} thread(s) {kind}: {wall:.0f} tokens/s, {busy:.0f} per second of the processor, "
                          f"mean loss {mean:.6f}", flush=True)
            middle = {kind: [statistics.median(column) for column in zip(*of_kind)] for kind, of_kind in speeds.items()}
            base = middle["torch f32"]
            for kind, (wall, busy) in middle.items():
                print(f"{threads} thread(s) {kind}: {wall:.0f} tokens/s, {wall / base[0]:.2f} of torch f32; "
                      f"of the processor's time {busy:.0f}, {busy / base[1]:.2f}", flush=True)
