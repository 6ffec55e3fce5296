"""A miniature X-MOD with a projection, ten adapters and an XLM-R-like tokenizer, and texts in ten scripts.

Made of numpy's frozen RandomState, so the same tensors come out on every machine, and the record of what other
libraries computed from them (tests/fixtures/parity) needs no weights beside it.
"""

from __future__ import annotations

import string
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from colbertxm.languages import language
from colbertxm.model.encoder import Encoder, Pooling
from colbertxm.model.formats.files import assemble
from colbertxm.model.tokens import TokenSettings
from colbertxm.model.xmod import Xmod, XmodConfig
from colbertxm.records import Text

HIDDEN, LAYERS, HEADS, INNER, POSITIONS, DIM = 32, 2, 4, 64, 66, 16
QUERY_MAXLEN, PASSAGE_MAXLEN = 16, 40

WORDS = {
    "en": "turn the lamp off, please: is it on (still)?",
    "el": "σβήσε τη λάμπα, παρακαλώ. είναι αναμμένη;",
    "ru": "выключи лампу, пожалуйста. она ещё горит?",
    "he": "כבה את המנורה, בבקשה. היא דולקת?",
    "ar": "أطفئ المصباح، من فضلك. هل هو مضاء؟",
    "hi": "कृपया दीपक बंद करो। क्या वह जल रहा है?",
    "th": "ปิด ไฟ หน่อย. ยัง เปิด อยู่ ไหม?",
    "ko": "램프를 꺼 주세요. 아직 켜져 있나요?",
    "ja": "ランプを消してください。まだついていますか？",
    "zh": "请关灯。它还亮着吗？",
}
LANGS = tuple(WORDS)
SINGLE_PIECES = [c for c in string.punctuation if c not in "~^`"]
"""Not all, as in any vocabulary: the loaders disagree on words that are no piece."""


def texts() -> tuple[list[Text], list[Text]]:
    """Two queries and three passages in each language; one of each is longer than the limit."""
    queries, passages = [], []
    for lang, words in WORDS.items():
        half = words[: len(words) // 2]
        queries += [Text(f"{lang}-short", half, lang), Text(f"{lang}-long", f"{words} " * 4 + half, lang)]
        marks = [words, f'{half} "1-2" ~ {words} ', f"{words} {half} " * 5]
        passages += [Text(f"{lang}-{i}", text, lang) for i, text in enumerate(marks)]
    return queries, passages


def tokenizer() -> Tokenizer:
    """Unigram in XLM-R's layout: specials at 0-3, "," "." "▁" at 4-6, <mask> last; words split at white space. As
    there, "." after a space is two pieces."""
    words = sorted(
        {"▁" + word.strip(string.punctuation + "،؛。？؟।") for text in WORDS.values() for word in text.split()}
    )
    letters = sorted({c for text in WORDS.values() for c in text if not c.isspace()} | set(string.digits))
    pieces = ["<s>", "<pad>", "</s>", "<unk>", ",", ".", "▁", "▁(", "▁-", *SINGLE_PIECES, *words, *letters, "<mask>"]
    vocabulary = [(piece, 0.0 if piece[0] == "<" and len(piece) > 1 else -12.0 + min(len(piece), 9)) for piece in
                  dict.fromkeys(pieces)]  # fmt: skip
    made = Tokenizer(models.Unigram(vocabulary, unk_id=3, byte_fallback=False))
    made.normalizer = normalizers.NFKC()  # type: ignore[assignment]
    split = [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")]
    made.pre_tokenizer = pre_tokenizers.Sequence(split)  # type: ignore[assignment]
    made.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    return made


def encoder(folder: Path, settings: TokenSettings, pooling: Pooling = "multi", seed: int = 0) -> Encoder:
    """The miniature with these settings; its tokenizer is written to `folder` on the way. With markers=added both
    markers get the two last rows of the embeddings."""
    made = tokenizer()
    if settings.markers == "added":
        made.add_special_tokens([settings.query_marker, settings.passage_marker])
    folder.mkdir(parents=True, exist_ok=True)
    made.save(str(folder / "tokenizer.json"))
    config = XmodConfig(
        vocab_size=made.get_vocab_size(),
        hidden_size=HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        intermediate_size=INNER,
        max_position_embeddings=POSITIONS,
        languages=tuple(language(lang).adapter for lang in LANGS),
    )
    xmod = Xmod(config)
    random = np.random.RandomState(seed)
    for name, parameter in xmod.named_parameters():
        scale, shift = (0.1, 1.0) if name.endswith("LayerNorm.weight") else (0.15, 0.0)
        values = random.standard_normal(tuple(parameter.shape)) * scale + shift
        parameter.data = torch.from_numpy(values.astype(np.float32))
    projection = torch.from_numpy((random.standard_normal((DIM, HIDDEN)) * 0.2).astype(np.float32))
    return assemble(xmod, folder, settings, pooling, projection if pooling == "multi" else None)
