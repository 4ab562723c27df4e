"""Models the package does not know: each kind against a plain forward pass, and files that must be refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from crossrec import encode
from crossrec.core import CrossrecError
from crossrec.encode import Encoder
from crossrec.pretrained import PretrainedSettings, fingerprint, load_model, looks_ahead, model_inputs, prompt_of
from tests.strangers import CAUSAL, KINDS, by_hand, random_model, saved, tokenizer
from tests.toy import language_model

TEXTS = ["oat", "oat milk", "bread soap brush cream apple pear plum rice", "oat milk tea bread soap", "tea leek"]
EVERY = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test begins with an empty cache, and computes in full precision."""
    monkeypatch.setenv("CROSSREC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(encode, "has_bf16", lambda: False)


def fails(match: str):
    return pytest.raises(CrossrecError, match=match)


@EVERY
def test_a_plain_folder_equals_a_forward_pass_by_hand(tmp_path: Path, kind: str) -> None:
    folder = saved(tmp_path / kind, kind)
    expected = by_hand(random_model(kind), tokenizer(), TEXTS, KINDS[kind][2])
    np.testing.assert_allclose(Encoder(str(folder)).encode(TEXTS), expected, atol=2e-6)
    assert np.linalg.norm(expected[0] - expected[1]) > 0.01  # a model that tells texts apart
    body = random_model(kind).get_encoder() if kind == "t5" else random_model(kind)
    assert looks_ahead(body) == (KINDS[kind][2] == "mean")


@EVERY
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_padded_batch_equals_single_texts(tmp_path: Path, kind: str, side: str) -> None:
    model = load_model(saved(tmp_path / kind, kind, side=side))
    with torch.inference_mode():
        together = model(model_inputs(model, TEXTS))["sentence_embedding"]
        alone = torch.cat([model(model_inputs(model, [text]))["sentence_embedding"] for text in TEXTS])
    np.testing.assert_allclose(together, alone, atol=1e-5)


@EVERY
@pytest.mark.parametrize("pooling", ["mean", "cls", "last", "max"])
def test_pooling_as_asked_for(tmp_path: Path, kind: str, pooling: str) -> None:
    folder = saved(tmp_path / kind, kind)
    expected = by_hand(random_model(kind), tokenizer(), TEXTS, pooling)
    np.testing.assert_allclose(Encoder(str(folder), pooling=pooling).encode(TEXTS), expected, atol=2e-6)


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_no_padding_token_and_no_marks(tmp_path: Path, kind: str) -> None:
    folder = saved(tmp_path / kind, kind, pad=False, frame=False)
    vectors = Encoder(str(folder)).encode([*TEXTS, ""])
    expected = by_hand(random_model(kind), tokenizer(frame=False), TEXTS, "last")
    np.testing.assert_allclose(vectors[:-1], expected, atol=2e-6)
    assert np.isfinite(vectors).all()
    assert load_model(folder).tokenizer.pad_token == "[SEP]"


@pytest.mark.parametrize("kind, head", [("llama", "ForCausalLM"), ("gpt2", "LMHeadModel"), ("bert", "ForMaskedLM"),
                                        ("t5", "ForConditionalGeneration"), ("t5", "EncoderModel")])
def test_models_saved_with_another_head(tmp_path: Path, kind: str, head: str) -> None:
    whole = random_model(kind, head)
    whole.save_pretrained(tmp_path / kind)
    tokenizer().save_pretrained(tmp_path / kind)
    body = whole.get_encoder() if kind == "t5" else whole.base_model
    expected = by_hand(body, tokenizer(), TEXTS, KINDS[kind][2])
    np.testing.assert_allclose(Encoder(str(tmp_path / kind)).encode(TEXTS), expected, atol=2e-6)


@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_a_prompt_stands_before_each_text(tmp_path: Path, kind: str) -> None:
    folder = str(saved(tmp_path / kind, kind))
    plain = Encoder(folder).encode([f"product : {text}" for text in TEXTS])
    np.testing.assert_array_equal(Encoder(folder, prompt="product : ").encode(TEXTS), plain)
    tuned = Encoder(folder, prompt="product : ").load()
    tuned.save(str(tmp_path / "saved"), create_model_card=False)
    np.testing.assert_array_equal(Encoder(str(tmp_path / "saved")).encode(TEXTS), plain)  # it remembers
    without = Encoder(str(tmp_path / "saved"), prompt="").encode(TEXTS)
    np.testing.assert_array_equal(without, Encoder(folder).encode(TEXTS))


def test_a_prompt_by_its_name_and_one_left_out_of_the_pooling(tmp_path: Path) -> None:
    model = load_model(saved(tmp_path / "plain", "bert"))
    model.prompts["shop"], model[1].include_prompt = "product : ", False
    model.save(str(tmp_path / "named"), create_model_card=False)
    named = Encoder(str(tmp_path / "named"), prompt="shop")
    assert prompt_of(named.load()) == "product : "
    expected = model.encode(TEXTS, prompt="product : ", normalize_embeddings=True)
    np.testing.assert_allclose(named.encode(TEXTS), expected, atol=1e-5)


@pytest.mark.parametrize("dtype, wanted", [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_weights_in_short_floats(tmp_path: Path, dtype: str, wanted: torch.dtype) -> None:
    folder = str(saved(tmp_path / "llama", "llama"))
    encoder = Encoder(folder, dtype=dtype)
    assert encoder.load().dtype == wanted
    cosines = (encoder.encode(TEXTS) * Encoder(folder).encode(TEXTS)).sum(1)
    assert cosines.min() > (0.9999 if dtype != "bf16" else 0.998)


def test_long_texts_are_cut_off_where_the_model_ends(tmp_path: Path) -> None:
    for kind, longest in {"bert": 64, "roberta": 33, "gpt2": 64, "t5": 512}.items():
        encoder = Encoder(str(saved(tmp_path / kind, kind)))
        assert encoder.load().max_seq_length == longest
        assert np.isfinite(encoder.encode(["oat " * 700])).all()
    short = Encoder(str(tmp_path / "bert"), max_length=4)
    np.testing.assert_array_equal(*short.encode(["oat milk tea", "oat milk soap bread"])[:, None])


def test_what_sentence_transformers_wrote_is_read_as_it_says(tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    folder = language_model(tmp_path / "bert")
    expected = SentenceTransformer(str(folder)).encode(TEXTS, normalize_embeddings=True)
    np.testing.assert_allclose(Encoder(str(folder)).encode(TEXTS), expected, atol=1e-5)


def test_words_in_a_table(tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    table = SentenceTransformer(modules=[StaticEmbedding(tokenizer().backend_tokenizer, embedding_dim=16)])
    table.save(str(tmp_path / "table"), create_model_card=False)
    expected = table.encode(TEXTS, normalize_embeddings=True)
    np.testing.assert_allclose(Encoder(str(tmp_path / "table")).encode(TEXTS), expected, atol=1e-6)
    with fails("without pooling"):
        Encoder(str(tmp_path / "table"), pooling="cls").encode(TEXTS)


def adapter(folder: Path, base: Path, kind: str, head: str = "Model", seed: int = 0, **chosen: object):
    """Save a random LoRA adapter for a saved model; gives back peft's own model."""
    import peft

    chosen = {"r": 2, "lora_alpha": 6, "target_modules": "all-linear"} | chosen
    tuned = peft.get_peft_model(random_model(kind, head), peft.LoraConfig(**chosen))
    torch.manual_seed(seed)
    for name, weight in tuned.named_parameters():
        if "lora" in name:
            torch.nn.init.normal_(weight, std=0.2)
    tuned.save_pretrained(folder)
    config = json.loads((folder / "adapter_config.json").read_text()) | {"base_model_name_or_path": str(base)}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return tuned.eval()


@pytest.mark.parametrize("kind, head, task", [("bert", "Model", None), ("llama", "Model", None),
                                              ("llama", "ForCausalLM", "CAUSAL_LM"), ("qwen3", "Model", None)])
def test_a_merged_adapter_equals_peft(tmp_path: Path, kind: str, head: str, task: str | None) -> None:
    base = saved(tmp_path / "base", kind, head)
    tuned = adapter(tmp_path / "lora", base, kind, head, task_type=task)
    body = tuned.base_model.model.base_model if head != "Model" else tuned
    expected = by_hand(body, tokenizer(), TEXTS, KINDS[kind][2])
    by_folder, by_argument = Encoder(str(tmp_path / "lora")), Encoder(str(base), adapter=str(tmp_path / "lora"))
    np.testing.assert_allclose(by_folder.encode(TEXTS), expected, atol=5e-6)
    np.testing.assert_allclose(by_argument.encode(TEXTS), expected, atol=5e-6)
    untuned = Encoder(str(base))
    assert np.abs(untuned.encode(TEXTS) - expected).max() > 0.01
    assert len({untuned.fingerprint, by_folder.fingerprint}) == 2
    model = by_folder.load()
    assert not any("lora" in name for name, _ in model.named_parameters())
    model.save(str(tmp_path / "whole"), create_model_card=False)
    np.testing.assert_allclose(Encoder(str(tmp_path / "whole")).encode(TEXTS), expected, atol=5e-6)


@pytest.mark.parametrize("pattern", ["rank_pattern", "alpha_pattern"])
def test_an_adapter_whose_parts_differ_in_rank_or_strength(tmp_path: Path, pattern: str) -> None:
    base = saved(tmp_path / "base", "llama", "ForCausalLM")
    chosen = {"target_modules": ["q_proj"], pattern: {"model.layers.1.self_attn.q_proj": 4}}
    body = adapter(tmp_path / "lora", base, "llama", "ForCausalLM", **chosen).base_model.model.base_model
    found = Encoder(str(base), adapter=str(tmp_path / "lora")).encode(TEXTS)
    np.testing.assert_allclose(found, by_hand(body, tokenizer(), TEXTS, "last"), atol=5e-6)
    config = json.loads((tmp_path / "lora" / "adapter_config.json").read_text()) | {pattern: {"model.other.part": 4}}
    (tmp_path / "lora" / "adapter_config.json").write_text(json.dumps(config))
    with fails("an adapter for 'model.other.part'"):
        Encoder(str(base), adapter=str(tmp_path / "lora")).encode(TEXTS)


def test_an_adapter_of_another_model_is_refused(tmp_path: Path) -> None:
    adapter(tmp_path / "lora", tmp_path, "llama")
    base = saved(tmp_path / "bert", "bert")
    with fails("parts that the model has"):
        Encoder(str(base), adapter=str(tmp_path / "lora")).encode(TEXTS)
    with fails("no such folder"):
        Encoder(str(tmp_path / "lora-without-base"))
    weights = load_file(tmp_path / "lora" / "adapter_model.safetensors")
    weights.pop(next(iter(weights)))
    save_file(weights, tmp_path / "lora" / "adapter_model.safetensors")
    with fails("weights that do not fit"):
        Encoder(str(saved(tmp_path / "llama", "llama")), adapter=str(tmp_path / "lora")).encode(TEXTS)
    (tmp_path / "lora" / "adapter_model.safetensors").rename(tmp_path / "lora" / "adapter_model.bin")
    with fails(r"pickled weights \(adapter_model.bin\)"):
        Encoder(str(tmp_path / "llama"), adapter=str(tmp_path / "lora")).encode(TEXTS)


def damage(folder: Path, how: str) -> None:
    weights, config = folder / "model.safetensors", folder / "config.json"
    if how == "cut":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif how == "no weights":
        weights.unlink()
    elif how == "weights missing":
        kept = load_file(weights)
        kept.pop("encoder.layer.1.output.dense.weight")
        save_file(kept, weights, {"format": "pt"})
    elif how == "other shape":
        config.write_text(config.read_text().replace('"hidden_size": 32', '"hidden_size": 64'))
    elif how == "no words":
        (folder / "tokenizer.json").unlink()
        (folder / "tokenizer_config.json").unlink()
    else:
        config.write_text({"no JSON": "{", "unknown kind": '{"model_type": "odd"}', "no kind": "{}"}[how])


@pytest.mark.parametrize("how", ["cut", "no weights", "weights missing", "other shape", "no words", "no JSON",
                                 "unknown kind", "no kind"])
def test_damaged_files_give_one_clear_error(tmp_path: Path, how: str) -> None:
    folder = saved(tmp_path / "bert", "bert")
    damage(folder, how)
    with fails("encoder '.*bert': found files that do not make a model") as caught:
        Encoder(str(folder)).encode(TEXTS)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("quiet", ["messages off", "logging off"])
def test_missing_weights_are_an_error_whatever_is_logged(
    tmp_path: Path, quiet: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import logging

    from transformers import PreTrainedModel
    from transformers.utils import logging as theirs

    folder, before = saved(tmp_path / "bert", "bert"), theirs.get_verbosity()
    damage(folder, "weights missing")
    reads = vars(PreTrainedModel)["from_pretrained"]
    theirs.set_verbosity_error() if quiet == "messages off" else logging.disable(logging.CRITICAL)
    try:
        with fails("no weights for encoder.layer.1.output.dense.weight"):
            Encoder(str(folder)).encode(TEXTS)
    finally:
        theirs.set_verbosity(before), logging.disable(logging.NOTSET)
    assert vars(PreTrainedModel)["from_pretrained"] is reads


def test_words_that_do_not_fit_the_model_give_one_clear_error(tmp_path: Path) -> None:
    folder = saved(tmp_path / "bert", "bert")
    words = tokenizer()
    words.add_tokens(["unheard"])
    words.save_pretrained(folder)
    assert np.isfinite(Encoder(str(folder)).encode(TEXTS)).all()
    with fails("fails on these texts .index out of range") as caught:
        Encoder(str(folder)).encode(["unheard"])
    assert "\n" not in str(caught.value)


def test_pickled_weights_anywhere_are_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path / "bert", "bert")
    (folder / "2_Dense").mkdir()
    torch.save({}, folder / "2_Dense" / "pytorch_model.bin")
    with fails(r"pickled weights \(2_Dense/pytorch_model.bin\)"):
        Encoder(str(folder)).encode(TEXTS)


@pytest.mark.parametrize("where", ["config.json", "modules.json"])
def test_code_that_comes_with_a_model_is_not_run(tmp_path: Path, where: str) -> None:
    folder = language_model(tmp_path / "bert")
    code = f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Own: pass\n"
    (folder / "modeling_own.py").write_text(code)
    if where == "config.json":
        own = {"AutoConfig": "modeling_own.Own", "AutoModel": "modeling_own.Own"}
        settings = {"model_type": "own", "auto_map": own}
        (folder / where).write_text(json.dumps(settings))
    else:
        modules = json.loads((folder / where).read_text())
        modules[0]["type"] = "modeling_own.Own"
        (folder / where).write_text(json.dumps(modules))
    with fails("brings its own code"):
        Encoder(str(folder)).encode(TEXTS)
    assert not (tmp_path / "ran").exists()


def test_an_activation_of_its_own_is_refused(tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Dense

    plain = SentenceTransformer(str(language_model(tmp_path / "bert")))
    SentenceTransformer(modules=[*plain, Dense(32, 8)]).save(str(tmp_path / "dense"), create_model_card=False)
    expected = SentenceTransformer(str(tmp_path / "dense")).encode(TEXTS, normalize_embeddings=True)
    np.testing.assert_allclose(Encoder(str(tmp_path / "dense")).encode(TEXTS), expected, atol=1e-5)
    file = tmp_path / "dense" / "2_Dense" / "config.json"
    file.write_text(file.read_text().replace("torch.nn.modules.activation.Tanh", "own.Act"))
    with fails(r"brings its own code \(own.Act\)"):  # sentence-transformers would put another one in its place
        Encoder(str(tmp_path / "dense")).encode(TEXTS)


def test_a_model_that_wants_its_vectors_cut_short(tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    plain = SentenceTransformer(str(language_model(tmp_path / "bert")), truncate_dim=12)
    plain.save(str(tmp_path / "short"), create_model_card=False)
    found = Encoder(str(tmp_path / "short")).encode(TEXTS)
    assert found.shape[1] == 12
    np.testing.assert_allclose(found, plain.encode(TEXTS, normalize_embeddings=True), atol=1e-5)


def test_a_leftover_of_code_does_not_matter(tmp_path: Path) -> None:
    folder = saved(tmp_path / "bert", "bert")
    before = Encoder(str(folder)).encode(TEXTS)
    settings = json.loads((folder / "config.json").read_text()) | {"auto_map": {"AutoModel": "modeling_own.Own"}}
    (folder / "config.json").write_text(json.dumps(settings))
    (folder / "modeling_own.py").write_text("raise RuntimeError('run')")
    np.testing.assert_array_equal(Encoder(str(folder)).encode(TEXTS), before)


def test_gguf_files_are_chosen_by_name(tmp_path: Path) -> None:
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).write_bytes(b"GGUF no more")
    with fails("GGUF files 'a.gguf', 'b.gguf'.*gguf_file="):
        Encoder(str(tmp_path)).encode(TEXTS)
    with fails("do not make a model"):
        Encoder(str(tmp_path), gguf_file="a.gguf").encode(TEXTS)
    one = fingerprint(tmp_path, PretrainedSettings(gguf_file="a.gguf"))
    (tmp_path / "b.gguf").write_bytes(b"other")
    assert fingerprint(tmp_path, PretrainedSettings(gguf_file="a.gguf")) == one
    assert fingerprint(tmp_path, PretrainedSettings(gguf_file="b.gguf")) != one


def write_gguf(path: Path, model) -> None:
    """A small Llama as a GGUF file of plain floats, which knows how to spell oat and milk."""
    gguf = pytest.importorskip("gguf")
    writer = gguf.GGUFWriter(path, "llama")
    words = "<pad> <unk> <s> </s> o a t m i l k oa oat mi lk milk".split()
    words += [f"<{number}>" for number in range(len(tokenizer()) - len(words))]
    heads, groups, width = CAUSAL["num_attention_heads"], CAUSAL["num_key_value_heads"], CAUSAL["hidden_size"]
    writer.add_context_length(64), writer.add_embedding_length(width), writer.add_block_count(2)
    writer.add_feed_forward_length(CAUSAL["intermediate_size"]), writer.add_head_count(heads)
    writer.add_head_count_kv(groups), writer.add_layer_norm_rms_eps(model.config.rms_norm_eps)
    writer.add_rope_freq_base(10_000.0), writer.add_vocab_size(len(words))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(words)
    writer.add_token_merges(["o a", "oa t", "m i", "l k", "mi lk"])
    writer.add_eos_token_id(3), writer.add_bos_token_id(2)
    names = {"embed_tokens": "token_embd", "norm": "output_norm", "self_attn.q_proj": "attn_q",
             "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
             "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
             "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}
    for key, value in model.state_dict().items():
        words_of = key.removesuffix(".weight").split(".")
        block = f"blk.{words_of[1]}." if words_of[0] == "layers" else ""
        plain = value.numpy()
        for part, count in (("q_proj", heads), ("k_proj", groups)):
            if part in key:  # llama.cpp keeps the two halves of a head interleaved
                plain = plain.reshape(count, 2, -1, width).swapaxes(1, 2).reshape(plain.shape)
        writer.add_tensor(f"{block}{names['.'.join(words_of[2:] if block else words_of)]}.weight", plain.copy())
    writer.write_header_to_file(), writer.write_kv_data_to_file(), writer.write_tensors_to_file()
    writer.close()


def test_a_gguf_file_gives_the_vectors_of_its_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("CROSSREC_PROGRESS", "0")
    model = random_model("llama")
    write_gguf(tmp_path / "small.gguf", model)
    encoder = Encoder(str(tmp_path), pooling="mean")
    loaded = encoder.load()
    texts = ["oat", "milk"]
    ids = [model_inputs(loaded, [text])["input_ids"] for text in texts]
    assert [row.shape[1] for row in ids] == [1, 1]
    with torch.inference_mode():
        expected = torch.cat([model(input_ids=row).last_hidden_state.mean(1) for row in ids])
    expected = torch.nn.functional.normalize(expected, dim=1)
    np.testing.assert_allclose(encoder.encode(texts), expected, atol=1e-5)
    assert capfd.readouterr().err == ""
    loaded.save(str(tmp_path / "saved"), create_model_card=False)
    np.testing.assert_allclose(Encoder(str(tmp_path / "saved")).encode(texts), expected, atol=1e-5)
