"""What is asked and answered, as pydantic and OpenAPI have it."""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, create_model

from colbertxm.service.limits import Limits

Which = Literal["main", "compare"]
LANG = "a code such as `de`, a name, or `auto` to have it guessed among the model's languages"


class Strict(BaseModel):
    """No field that is not known: a misspelt filter would find everything."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Filters(Strict):
    """Which passages may be found."""

    passage_lang: str | list[str] = Field(
        default="all", description="`all`, `same` as the query's, a language, or a list of languages"
    )
    ids: list[str] | None = None


class SearchBody(Strict):
    """A query."""

    query: str
    lang: str = Field(default="auto", description=LANG, max_length=100)
    k: int = 10
    filters: Filters = Filters()
    model: Which = Field(default="main", description="`compare`: the second model or index, where there is one")


class MatchBody(Strict):
    """A query and a passage: one of the index by its `id`, or a text with its language."""

    query: str
    lang: str = Field(default="auto", description=LANG, max_length=100)
    id: str | None = None
    passage: str | None = None
    passage_lang: str | None = Field(default=None, description="of `passage`", max_length=100)
    model: Which = "main"


class DocumentBody(Strict):
    """A passage to index."""

    id: str
    text: str
    lang: str = Field(description=LANG, max_length=100)


class DocumentsBody(Strict):
    """Passages, each in the place of one with its id; all of them or none."""

    documents: list[DocumentBody]


class PassageAnswer(BaseModel):
    """A passage of the index."""

    id: str
    text: str
    lang: str
    lang_confidence: float | None = Field(default=None, description="where the language was guessed")


class HitAnswer(PassageAnswer):
    """A passage that a search found."""

    rank: int
    score: float


class SearchAnswer(BaseModel):
    """What a search found, the best first."""

    lang: str = Field(description="in which the query was read")
    lang_confidence: float | None = None
    took_ms: float
    hits: list[HitAnswer]


class TokenAnswer(BaseModel):
    """One token as the encoder read it."""

    label: str = Field(description="what to show")
    text: str = Field(description="what it covers of the text, with the space before it")
    role: str = Field(description="text, prefix, start, marker, end or mask")
    kept: bool = Field(description="whether it has a vector")


class MatchAnswer(BaseModel):
    """MaxSim of a query and a passage, taken apart."""

    lang: str
    passage: PassageAnswer
    score: float = Field(description="MaxSim of the full vectors; a compressed index's score is near it")
    query_tokens: list[TokenAnswer]
    passage_tokens: list[TokenAnswer]
    rest: str = Field(description="the end of the passage, which the encoder did not read")
    best: list[int] = Field(description="of each kept query token: the kept passage token that it chose")
    cosines: list[list[float]] = Field(description="kept query tokens x kept passage tokens")


class IndexedAnswer(BaseModel):
    """The index after a change."""

    indexed: int = Field(description="passages that are now there")


class ModelAnswer(BaseModel):
    """A model with its index."""

    which: Which
    name: str
    engine: str
    passages: int
    passage_langs: list[str]
    query_langs: list[str]
    token_matches: bool


class InfoAnswer(BaseModel):
    """What is served."""

    version: str
    auto: bool = Field(description="whether languages can be guessed")
    models: list[ModelAnswer]
    names: dict[str, str] = Field(description="of languages, by code")
    rtl: list[str] = Field(description="languages that are written from right to left")
    limits: dict[str, float]


class HealthAnswer(BaseModel):
    """Answered as soon as searches are."""

    status: Literal["ok"]


class ErrorAnswer(BaseModel):
    """Any other answer than 200."""

    error: str = Field(description="one line: what is wrong and what to do")


class Bodies(NamedTuple):
    """The bodies with the limits in them, which OpenAPI then states."""

    search: type[SearchBody]
    match: type[MatchBody]
    documents: type[DocumentsBody]


def bodies(limits: Limits) -> Bodies:
    """The bodies of a service with these limits."""
    id_ = Annotated[str, Field(min_length=1, max_length=limits.id_chars)]
    query = Annotated[str, Field(min_length=1, max_length=limits.query_chars)]
    text = Annotated[str, Field(min_length=1, max_length=limits.text_chars)]
    ids = Annotated[list[id_], Field(description="only these", max_length=limits.filter_ids)]
    filters = create_model("Filters", __base__=Filters, ids=(ids | None, None))
    k = Annotated[int, Field(ge=1, le=limits.k)]
    document = create_model("DocumentBody", __base__=DocumentBody, id=(id_, ...), text=(text, ...))
    documents = Annotated[list[document], Field(min_length=1, max_length=limits.documents)]  # type: ignore[valid-type]
    return Bodies(
        create_model(
            "SearchBody", __base__=SearchBody,
            query=(query, ...), k=(k, min(10, limits.k)), filters=(filters, filters()),
        ),
        create_model(
            "MatchBody", __base__=MatchBody, query=(query, ...), id=(id_ | None, None), passage=(text | None, None)
        ),
        create_model("DocumentsBody", __base__=DocumentsBody, documents=(documents, ...)),
    )  # fmt: skip
