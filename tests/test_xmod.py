"""Our X-MOD routing against transformers' XmodModel: values and gradients, over random shapes and language mixes."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from torch._subclasses.fake_tensor import DynamicOutputShapeException, FakeTensorMode
from transformers import XmodConfig as TheirConfig
from transformers import XmodModel

from colbertxm.errors import UserError
from colbertxm.model.encoder import Encoder
from colbertxm.model.packing import Grid, Packed, pack
from colbertxm.model.xmod import Xmod, XmodConfig

LANGUAGES = ("en_XX", "de_DE", "ja_XX")


def pair_of_models(seed: int, **options: bool) -> tuple[Xmod, XmodModel]:
    torch.manual_seed(seed)
    shape = dict(vocab_size=50, hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=40,
                 max_position_embeddings=66, type_vocab_size=1, layer_norm_eps=1e-5, languages=LANGUAGES)  # fmt: skip
    theirs = XmodModel(TheirConfig(**{**shape, **options, "languages": list(LANGUAGES)}), add_pooling_layer=False)
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    ours = Xmod(XmodConfig(**{**shape, **options}))
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs.eval()


def random_batch(seed: int) -> tuple[list[list[int]], list[int]]:
    generator = torch.Generator().manual_seed(seed)
    count = int(torch.randint(1, 9, (1,), generator=generator))
    lengths = torch.randint(1, 40, (count,), generator=generator).tolist()
    ids = [torch.randint(4, 50, (n,), generator=generator).tolist() for n in lengths]
    return ids, torch.randint(0, len(LANGUAGES), (count,), generator=generator).tolist()


def reference(model: XmodModel, ids: list[list[int]], langs: list[int]) -> torch.Tensor:
    longest = max(map(len, ids))
    padded = torch.tensor([text + [1] * (longest - len(text)) for text in ids])
    mask = torch.tensor([[1] * len(text) + [0] * (longest - len(text)) for text in ids])
    out = model(input_ids=padded, attention_mask=mask, lang_ids=torch.tensor(langs)).last_hidden_state
    return out[mask.bool()]


def packed(ids: list[list[int]], langs: list[int]) -> Packed:
    return pack(ids, [LANGUAGES[i] for i in langs])


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(
    "options",
    [{}, {"ln_before_adapter": False}, {"adapter_reuse_layer_norm": False}, {"adapter_layer_norm": True}],
)
def test_values_equal_transformers(seed: int, options: dict[str, bool]) -> None:
    ours, theirs = pair_of_models(seed, **options)
    ids, langs = random_batch(seed)
    with torch.no_grad():
        torch.testing.assert_close(ours(packed(ids, langs)), reference(theirs, ids, langs), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("seed", range(4))
def test_gradients_equal_transformers(seed: int) -> None:
    ours, theirs = pair_of_models(seed)
    ids, langs = random_batch(seed)
    weight = torch.randn(sum(map(len, ids)), 24, generator=torch.Generator().manual_seed(seed))
    (ours(packed(ids, langs)) * weight).sum().backward()
    (reference(theirs, ids, langs) * weight).sum().backward()
    present = {LANGUAGES[i] for i in langs}
    expected = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        if any(f".adapter_modules.{lang}." in name for lang in set(LANGUAGES) - present):
            assert parameter.grad is None, f"{name}: the adapter of an absent language has a gradient"
            continue
        torch.testing.assert_close(parameter.grad, expected[name].grad, atol=1e-4, rtol=1e-4, msg=name)


def test_adapters_of_absent_languages_never_move_under_adamw() -> None:
    ours, _ = pair_of_models(0)
    before = {n: p.detach().clone() for n, p in ours.named_parameters() if "de_DE" in n}
    optimizer = torch.optim.AdamW(ours.parameters(), lr=0.1, weight_decay=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        ours(pack([[5, 6, 7]], ["en_XX"])).square().sum().backward()
        optimizer.step()
    after = dict(ours.named_parameters())
    assert before and all(torch.equal(after[name], value) for name, value in before.items())


def test_a_text_has_the_same_states_in_any_company() -> None:
    ours, _ = pair_of_models(3)
    ids, langs = random_batch(3)
    with torch.no_grad():
        together = ours(packed(ids, langs)).split([len(text) for text in ids])
        for i, text in enumerate(ids):
            torch.testing.assert_close(together[i], ours(packed([text], [langs[i]])), atol=1e-5, rtol=1e-5)


def test_stopping_at_a_layer_and_going_on_changes_nothing() -> None:
    ours, _ = pair_of_models(1)
    batch = packed(*random_batch(1))
    with torch.no_grad():
        assert torch.equal(ours(batch, ours(batch, last=1), first=1), ours(batch))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_runs_forward_and_backward(dtype: torch.dtype) -> None:
    ours, _ = pair_of_models(2)
    batch = packed([[5, 6, 7], [8, 9], [4]], [0, 1, 0])
    with torch.autocast("cpu", dtype):
        low = ours(batch)
    low.float().square().sum().backward()
    torch.testing.assert_close(low.float(), ours(batch), atol=0.2, rtol=0.1)
    assert all(p.grad is None or p.grad.isfinite().all() for p in ours.parameters())


def test_nothing_in_the_forward_pass_asks_the_device() -> None:
    """On fake tensors every question to the data (item, nonzero, a boolean index) raises: the host never waits."""
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        config = XmodConfig(
            vocab_size=50, hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=40,
            max_position_embeddings=66, languages=LANGUAGES,
        )  # fmt: skip
        ours = Xmod(config)
        head = Encoder(ours, None, "multi", 8)  # type: ignore[arg-type]
    ids, langs = [[5, 6, 7], [8, 9, 10, 11] * 8, [4], [5, 7]], [0, 1, 0, 2]
    keep = [[True] * (len(text) - 1) + [False] for text in ids]
    batch = pack(ids, [LANGUAGES[i] for i in langs], keep=keep)
    fake = dataclasses.replace(
        batch,
        **{name: mode.from_tensor(getattr(batch, name)) for name in ("ids_T", "positions_T", "kept_K")},
        sort_T=mode.from_tensor(batch.sort_T), restore_T=mode.from_tensor(batch.restore_T),
        grids=tuple(
            Grid(mode.from_tensor(g.tokens), mode.from_tensor(g.slots), g.shape,
                 None if g.mask_BL is None else mode.from_tensor(g.mask_BL))
            for g in batch.grids
        ),
    )  # fmt: skip
    with mode:
        vectors = head(fake)
        assert vectors.values.shape == (34, 8)
        vectors.values.sum().backward()
        with pytest.raises(DynamicOutputShapeException):  # the mode does refuse what the test is about
            fake.ids_T.nonzero()


def test_compiled_is_equal_and_compiles_few_graphs() -> None:
    """One-language and mixed batches of many shapes: equal values and gradients, and no new graph for each shape."""
    torch._dynamo.reset()
    plain, _ = pair_of_models(5)
    graphs = CompileCounterWithBackend("aot_eager")
    compiled = copy.deepcopy(plain)
    compiled.compile(backend=graphs)
    counts = []
    for seed in range(8):
        ids, langs = random_batch(seed)
        batch = packed(ids, langs if seed % 2 else [langs[0]] * len(ids))
        expected, got = plain(batch), compiled(batch)
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
        expected.square().sum().backward()
        got.square().sum().backward()
        counts.append(graphs.frame_count)
    for (name, mine), other in zip(plain.named_parameters(), compiled.parameters(), strict=True):
        torch.testing.assert_close(other.grad, mine.grad, atol=1e-4, rtol=1e-4, msg=name)
    assert 0 < counts[-1] == counts[2], f"graphs after each batch: {counts}"
    assert set(compiled.state_dict()) == set(plain.state_dict())


def test_a_language_scattered_over_the_batch_is_one_run() -> None:
    batch = packed([[5, 6], [7], [8, 9, 10], [11]], [1, 0, 1, 0])
    assert batch.runs == (("de_DE", 0, 5), ("en_XX", 5, 7)) and batch.lengths == (2, 1, 3, 1)
    assert batch.ids_T.tolist() == [5, 6, 8, 9, 10, 7, 11]
    assert batch.sort_T is not None and batch.restore_T is not None
    assert torch.equal(batch.ids_T[batch.restore_T], torch.tensor([5, 6, 7, 8, 9, 10, 11]))


def test_unknown_language_and_too_long_text_are_errors() -> None:
    ours, _ = pair_of_models(0)
    with pytest.raises(UserError, match=r"no adapter for fr_XX.*en_XX, de_DE, ja_XX"):
        ours(pack([[5]], ["fr_XX"]))
    with pytest.raises(UserError, match="65 tokens, the encoder reads at most 64"):
        ours(pack([[5] * 65], ["en_XX"]))


def test_config_refuses_other_architectures() -> None:
    with pytest.raises(UserError, match="model_type is 'bert'"):
        XmodConfig.from_dict({"model_type": "bert"})
    config = XmodConfig(vocab_size=7, languages=("en_XX", "sw_KE"))
    assert XmodConfig.from_dict(config.to_dict()) == config
