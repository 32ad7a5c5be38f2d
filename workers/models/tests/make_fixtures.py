"""Writes tests/fixtures: tiny random models of the families that the golden set does not have, and
their losses in double precision by transformers (5.24). Run by hand; the tests read what it wrote.

    pip install torch transformers safetensors
    python make_fixtures.py
"""
import copy, json, os, shutil
import torch, transformers
from transformers import (GPT2Config, GPTNeoXConfig, LlamaConfig, MistralConfig, Olmo2Config, OlmoConfig, Qwen2Config,
                          Qwen3Config, SmolLM3Config, AutoModelForCausalLM)

HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "fixtures")
SIZES = dict(vocab_size=64, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
             num_key_value_heads=2, max_position_embeddings=64, bos_token_id=None, eos_token_id=0, pad_token_id=None)
ROPE = dict(rope_theta=100.0)
# Two layers, so that "every layer" and "every second layer" differ.
MODELS = {
    "mistral": MistralConfig(**SIZES, head_dim=4, sliding_window=8, rope_parameters={"rope_type": "default", **ROPE}),
    "qwen2": Qwen2Config(**SIZES, use_sliding_window=True, sliding_window=8, max_window_layers=1,
                         rope_parameters={"rope_type": "default", **ROPE}),
    "qwen3": Qwen3Config(**SIZES, head_dim=8, rope_parameters={"rope_type": "default", **ROPE}),
    "olmo": OlmoConfig(**SIZES, clip_qkv=0.7, rope_parameters={"rope_type": "default", **ROPE}),
    "olmo2": Olmo2Config(**SIZES, rope_parameters={"rope_type": "default", **ROPE}),
    "smollm3": SmolLM3Config(**SIZES, no_rope_layer_interval=2, use_sliding_window=True, sliding_window=8,
                             rope_parameters={"rope_type": "default", **ROPE}),
    "llama_llama3": LlamaConfig(**SIZES, attention_bias=True, mlp_bias=True, tie_word_embeddings=True, rope_parameters={
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32, **ROPE}),
    "llama_linear": LlamaConfig(**SIZES, head_dim=8, rope_parameters={"rope_type": "linear", "factor": 3.0, **ROPE}),
    "llama_yarn": LlamaConfig(**SIZES, head_dim=8, rope_parameters={
        "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, **ROPE}),
    "gpt2_scaled": GPT2Config(vocab_size=64, n_embd=16, n_layer=2, n_head=4, n_positions=64, n_inner=24,
                              activation_function="relu", scale_attn_by_inverse_layer_idx=True,
                              bos_token_id=None, eos_token_id=0),
    "gpt2_unscaled": GPT2Config(vocab_size=64, n_embd=16, n_layer=2, n_head=4, n_positions=64,
                                activation_function="gelu_new", scale_attn_weights=False,
                                bos_token_id=None, eos_token_id=0),
    "gpt_neox_sequential": GPTNeoXConfig(
        **{k: v for k, v in SIZES.items() if k != "num_key_value_heads"}, use_parallel_residual=False,
        attention_bias=False, rope_parameters={"rope_type": "default", "partial_rotary_factor": 0.5, **ROPE}),
}
# As they are stored; losses are of the values as stored.
DTYPES = {"qwen3": torch.float16, "olmo": torch.float32}


def main():
    shutil.rmtree(HERE, ignore_errors=True)
    generator = torch.Generator().manual_seed(1)
    sequences = [torch.randint(0, 64, (n,), generator=generator).tolist() for n in (40, 17)]
    losses = {}
    for name, config in MODELS.items():
        config._attn_implementation = "eager"
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                noise = torch.randn(parameter.shape, generator=generator)
                is_norm = parameter.dim() == 1 and parameter.mean() == 1
                value = 1 + 0.3 * noise if is_norm else 0.5 * noise
                parameter.copy_(value.to(DTYPES.get(name, torch.bfloat16)))
        # Before the buffers of rotary positions are rounded too.
        exact = copy.deepcopy(model).double()
        model = model.to(DTYPES.get(name, torch.bfloat16))
        directory = os.path.join(HERE, name)
        # OLMo 2 in several files.
        size = "4KB" if name == "olmo2" else "1GB"
        model.save_pretrained(directory, max_shard_size=size)
        generation = os.path.join(directory, "generation_config.json")
        if os.path.exists(generation):
            os.remove(generation)
        losses[name] = []
        for sequence in sequences:
            ids = torch.tensor([sequence])
            with torch.no_grad():
                logits = exact(ids, use_cache=False).logits[0, :-1]
            losses[name].append(torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none").tolist())
    with open(os.path.join(HERE, "losses.json"), "w") as file:
        json.dump({"transformers": transformers.__version__, "sequences": sequences, "losses": losses}, file)


if __name__ == "__main__":
    main()
