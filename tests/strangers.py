"""Plain transformers folders of random models with tokenizers made on the spot, and vectors made from them by hand."""

from pathlib import Path

import numpy as np

from tests.toy import WORDS

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
T5 = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}
GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
CAUSAL = SMALL | {"num_key_value_heads": 2, "max_position_embeddings": 64}
MARKS = {"pad_token_id": 0, "cls_token_id": 2, "sep_token_id": 3, "bos_token_id": 2, "eos_token_id": 3}
KINDS = {  # class, settings, and the pooling that fits it
    "bert": ("Bert", SMALL | {"max_position_embeddings": 64}, "mean"),
    "roberta": ("Roberta", SMALL | {"max_position_embeddings": 34, "pad_token_id": 0}, "mean"),
    "modernbert": ("ModernBert", SMALL | {"max_position_embeddings": 64, "local_attention": 8} | MARKS, "mean"),
    "t5": ("T5", T5, "mean"),
    "gpt2": ("GPT2", GPT2, "last"),
    "llama": ("Llama", CAUSAL, "last"),
    "mistral": ("Mistral", CAUSAL | {"sliding_window": 4}, "last"),
    "qwen2": ("Qwen2", CAUSAL, "last"),
    "qwen3": ("Qwen3", CAUSAL | {"head_dim": 16}, "last"),
}


def tokenizer(pad: bool = True, side: str = "right", frame: bool = True):
    """Words to numbers; without a token for padding, or without marks around a text, where that is asked for."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    marks = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    vocabulary = {word: number for number, word in enumerate([*marks, *WORDS.split(), *"query : product".split()])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    if frame:
        ends = [("[CLS]", 2), ("[SEP]", 3)]
        words.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", special_tokens=ends)
    named = {"unk_token": "[UNK]", "eos_token": "[SEP]"} | ({"pad_token": "[PAD]"} if pad else {})
    return PreTrainedTokenizerFast(tokenizer_object=words, padding_side=side, **named)


def random_model(kind: str, head: str = "Model", seed: int = 0):
    """A random transformers model of some thousand weights; `head` as in `LlamaForCausalLM`."""
    import torch
    import transformers

    name, settings, _ = KINDS[kind]
    config = getattr(transformers, f"{name}Config")(vocab_size=len(tokenizer()), **settings)
    torch.manual_seed(seed)
    model = getattr(transformers, f"{name}{head}")(config).eval()
    for weight in model.parameters():  # as they are made, these models hardly move a vector
        torch.nn.init.normal_(weight, std=0.3) if weight.ndim > 1 else None
    return model


def saved(folder: Path, kind: str, head: str = "Model", seed: int = 0, **words: object) -> Path:
    """Save such a model as transformers does."""
    random_model(kind, head, seed).save_pretrained(folder)
    tokenizer(**words).save_pretrained(folder)
    return folder


def by_hand(model, words, texts: list[str], pooling: str) -> np.ndarray:
    """Vectors of length one from a plain forward pass, text by text."""
    import torch

    vectors = []
    for text in texts:
        ids = torch.tensor([words(text)["input_ids"]])
        with torch.inference_mode():
            states = (model.encoder if hasattr(model, "encoder") and model.config.is_encoder_decoder else model)(
                input_ids=ids, attention_mask=torch.ones_like(ids)
            ).last_hidden_state[0]
        vectors.append({"mean": states.mean(0), "last": states[-1], "cls": states[0], "max": states.amax(0)}[pooling])
    rows = torch.stack(vectors)
    return torch.nn.functional.normalize(rows.float(), dim=1).numpy()
