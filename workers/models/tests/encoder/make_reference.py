"""make_reference.py DIRECTORY: a tiny BERT with random weights, and the vectors that transformers gives.

    python -m venv v && v/bin/pip install torch transformers safetensors
    v/bin/python workers/models/tests/encoder/make_reference.py workers/models/tests/encoder

Random weights have a larger spread than usual, so that attention is far from uniform and an error shows.
"""

import json
import pathlib
import string
import sys

import torch
import transformers

TEXTS = [
    "the cat sat on the mat",
    "The Cat, sat on the MAT!",
    "",
    "a",
    "rivers and bridges: how is a bridge kept?",
    "naïve café",
    "中文 text and עברית",
    "[SEP] is a text and no token",
    "the cat sat on the mat and the dog " * 20,
]
WORDS = "the cat sat on mat and dog a is how river ##s bridge kept text".split()

directory = pathlib.Path(sys.argv[1])
torch.manual_seed(7)
characters = string.ascii_lowercase + string.digits + ",.!?:;-'[]"
vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *characters]
vocabulary += ["##" + c for c in string.ascii_lowercase]
vocabulary += [word for word in WORDS if word not in vocabulary]
(directory / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
config = transformers.BertConfig(
    vocab_size=len(vocabulary),
    hidden_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=80,
    max_position_embeddings=40,
    initializer_range=0.3,
)
model = transformers.BertModel(config, add_pooling_layer=False).eval()
with torch.no_grad():
    for name, parameter in model.named_parameters():
        if name.endswith("bias") or "LayerNorm" in name:
            parameter.add_(0.2 * torch.randn_like(parameter))
model.save_pretrained(directory)
tokenizer = transformers.BertTokenizer(str(directory / "vocab.txt"), do_lower_case=True)
expected = []
for text in TEXTS:
    # Special tokens in a text are text: the tokenizer is given what is between them.
    pieces = tokenizer.tokenize(text.replace("[SEP]", "[ SEP ]"))[: config.max_position_embeddings - 2]
    ids = [2, *tokenizer.convert_tokens_to_ids(pieces), 3]
    with torch.no_grad():
        hidden = model(input_ids=torch.tensor([ids])).last_hidden_state[0]
    normal = torch.nn.functional.normalize
    expected.append(
        {
            "text": text,
            "mean": normal(hidden.mean(0), dim=0).tolist(),
            "cls": normal(hidden[0], dim=0).tolist(),
        }
    )
(directory / "expected.json").write_text(json.dumps(expected))
print(transformers.__version__, torch.__version__)
