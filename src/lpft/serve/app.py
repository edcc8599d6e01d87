"""The routes of the service: ``POST /predict``, ``GET /health``, and a page to try texts on.

A body is read under its limit, checked as JSON, then as texts; what is wrong with it is answered
with one sentence, ``{"error": ...}``. No text is logged or stored. A
:class:`~lpft.serve.batching.Batcher` computes the texts of concurrent requests together.
"""

import asyncio
import base64
import json
import logging
import re
import traceback
from collections.abc import AsyncIterator, Awaitable, Mapping
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from jinja2 import Environment, PackageLoader, StrictUndefined
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from lpft import __version__
from lpft.data import Text
from lpft.data.texts import check_texts
from lpft.errors import InputError, explain
from lpft.results.folder import read_record
from lpft.results.saved import SavedClassifier
from lpft.runs.predict import Prediction, most_probable, predict_texts
from lpft.serve.batching import Batcher, QueueFull
from lpft.settings.commands import ServingSettings

logger = logging.getLogger(__name__)

SECONDS_TO_READ = 30.0
"""How long a client may take to send a request's body."""


class PredictionOf(BaseModel):
    """The prediction of a text; the label is there even where the classifier abstains."""

    label: str | int | bool = Field(description="the most probable class")
    probabilities: dict[str, float] = Field(description="of each class, or of the top_k")
    abstained: bool = Field(
        default=False,
        description="whether the largest probability is below the threshold; absent without one",
    )


class Predictions(BaseModel):
    predictions: list[PredictionOf] = Field(description="one for each text, in their order")


class Health(BaseModel):
    status: str = Field(description="ready: the model is loaded")
    name: str = Field(description="the run's folder")
    model: str = Field(description="the pre-trained model")
    classes: list[str | int | bool] = Field(description="in the order of the model's logits")
    pairs: bool = Field(description="whether a text is a pair of two")
    abstain_below: float | None = Field(description="the threshold of the probability, if any")
    lpft: str = Field(description="version")


class Problem(BaseModel):
    error: str = Field(description="what is wrong and what is expected, in a sentence")


_PROBLEMS = {
    408: "the body did not arrive in time",
    413: "too many bytes, texts or characters",
    415: "the body is not JSON",
    422: "the body is no valid request",
    500: "the prediction failed",
    503: "too many texts are waiting: try again after Retry-After seconds",
}


def make_app(
    saved: SavedClassifier, settings: ServingSettings, abstain_below: float | None = None
) -> FastAPI:
    """The service of one classifier, which abstains below a probability of ``abstain_below``."""
    about = Health(
        status="ready",
        name=saved.folder.resolve().name,
        model=_model_name(saved),
        classes=list(saved.classes),
        pairs=saved.paired,
        abstain_below=abstain_below,
        lpft=__version__,
    )
    classes = len(saved.classes)
    Body = _request_model(paired=saved.paired, max_texts=settings.max_texts, classes=classes)

    def predict_batch(texts: list[Text]) -> list[Prediction]:
        return list(predict_texts(saved, texts, settings.batch_texts, abstain_below=abstain_below))

    batcher = Batcher(
        predict_batch,
        most=settings.batch_texts,
        wait=settings.batch_wait / 1000,
        queue=settings.max_queue,
    )

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with batcher.running():
            yield

    app = FastAPI(
        title=f"lpft: {about.name}",
        version=__version__,
        description="Labels and calibrated probabilities of texts.",
        lifespan=lifespan,
        docs_url=None,  # these pages load scripts from elsewhere
        redoc_url=None,
        exception_handlers={HTTPException: _problem, Exception: _failure},
    )

    @app.post(
        "/predict",
        summary="Predict the label of a text, or of several",
        response_model=Predictions,
        response_description="a prediction for each text",
        responses={
            200: {"content": {"application/json": {"example": _example_answer(about)}}},
            **{
                status: {"model": Problem, "description": text}
                for status, text in _PROBLEMS.items()
            },
        },
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {"application/json": {"schema": Body.model_json_schema()}},
            }
        },
    )
    async def predict(request: Request) -> Response:
        received = await _read(request, settings.max_bytes)
        body = _parse(Body, received, paired=saved.paired, classes=classes)
        texts = _texts(body, settings, paired=saved.paired)
        predictions = await _unless_gone(request, batcher.predict(texts))
        # One batch may hold requests for different numbers of classes.
        answers = [
            {**prediction, "probabilities": most_probable(prediction["probabilities"], body.top_k)}
            for prediction in predictions
        ]
        return _json({"predictions": answers})

    @app.get("/health", summary="Whether the model is loaded, and what it is")
    async def health() -> Health:
        return about

    page, policy = _page(about)

    @app.get("/", include_in_schema=False)
    async def try_page() -> Response:
        headers = {"Content-Security-Policy": policy, "Referrer-Policy": "no-referrer"}
        return Response(page, media_type="text/html", headers=headers)

    return app


def _model_name(saved: SavedClassifier) -> str:
    """The pre-trained model as training named it, without this machine's folders."""
    record = read_record(saved.folder)
    name = saved.encoder_name
    if record is not None:
        name = str(record.config.get("model") or name)
    return Path(name).name if Path(name).is_absolute() else name


# -- what is asked -------------------------------------------------------------------------------


def _request_model(*, paired: bool, max_texts: int, classes: int) -> Any:
    """The body of ``POST /predict`` for single texts, or for pairs."""
    text_type: Any = tuple[str, str] if paired else str
    example: Any = "The screen is bright."
    of_pairs = ""
    if paired:
        example, of_pairs = ["A man sleeps.", "Nobody is awake."], ", a pair of strings"

    def optional(description: str, **more: Any) -> Any:
        # without a default in the schema: null is no text
        return Field(default_factory=lambda: None, description=description, **more)

    return create_model(
        "PredictRequest",
        __config__=ConfigDict(
            extra="forbid",
            strict=True,
            json_schema_extra={
                "oneOf": [{"required": ["text"]}, {"required": ["texts"]}],
                "examples": [{"text": example}, {"texts": [example, example], "top_k": 1}],
            },
        ),
        __doc__="Either ``text`` or ``texts``.",
        text=(text_type, optional(f"one text{of_pairs}")),
        texts=(
            list[text_type],
            optional(
                f"several texts, each {'a pair of strings' if paired else 'a string'}",
                json_schema_extra={"minItems": 1, "maxItems": max_texts},
            ),
        ),
        top_k=(
            int,
            optional("only the K largest probabilities, in descending order", ge=1, le=classes),
        ),
    )


async def _read(request: Request, max_bytes: int) -> bytes:
    """The body, of which no more is kept than the limit."""
    kind = request.headers.get("content-type", "")
    media = kind.partition(";")[0].strip().lower()
    if media != "application/json" and not (
        media.startswith("application/") and media.endswith("+json")
    ):
        found = f"found {kind[:80]}" if kind else "found none"
        raise HTTPException(415, f"expected the Content-Type application/json, {found}")
    too_large = HTTPException(413, f"the body is too large: expected at most {max_bytes:,} bytes")
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > max_bytes:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(SECONDS_TO_READ):
            async for chunk in request.stream():
                body += chunk
                if len(body) > max_bytes:
                    raise too_large
    except TimeoutError:
        late = f"the body did not arrive within {SECONDS_TO_READ:g} seconds: send it at once"
        raise HTTPException(408, late) from None
    except ClientDisconnect:
        raise _gone() from None
    return bytes(body)


def _parse(model: Any, body: bytes, *, paired: bool, classes: int) -> Any:
    try:
        parsed = model.model_validate_json(body)
    except ValidationError as error:
        raise HTTPException(422, _sentence(error, paired=paired, classes=classes)) from None
    # Of a field that stands twice pydantic takes the last one. No object is within this one.
    names = json.loads(body, object_pairs_hook=lambda pairs: [name for name, _ in pairs])
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise HTTPException(422, f"found {twice!r} more than once: expected each field once")
    fields = parsed.model_fields_set & {"text", "texts"}
    if len(fields) != 1:
        found = "found both" if fields else "found neither"
        raise HTTPException(422, f"expected either 'text' or 'texts', {found}")
    return parsed


def _sentence(error: ValidationError, *, paired: bool, classes: int) -> str:
    """The first of pydantic's errors, without what the client sent."""
    first = error.errors(include_url=False, include_input=False)[0]
    kind, place = first["type"], first["loc"]
    expected = "a list of two strings, as the model was trained on pairs" if paired else "a string"
    if kind == "json_invalid":
        return f"the body is not valid JSON in UTF-8 ({first['ctx']['error']})"
    if not place:
        return "the body is no JSON object: expected one with 'text' or 'texts'"
    if kind == "extra_forbidden":
        return f"unknown field {str(place[0])[:60]!r}: expected 'text' or 'texts', and 'top_k'"
    if place[0] == "top_k":
        return f"'top_k' must be a whole number from 1 to {classes}, the number of classes"
    if place == ("texts",):
        return f"'texts' must be a list, each item {expected}"
    where = "'text'" if place[0] == "text" else f"text {int(place[1]) + 1}"
    return f"{where} must be {expected}"


def _texts(body: Any, settings: ServingSettings, *, paired: bool) -> list[Text]:
    """The texts of a request, within the limits and readable by the model."""
    texts: list[Text] = [body.text] if "text" in body.model_fields_set else body.texts
    if not texts:
        raise HTTPException(422, "'texts' is empty: expected at least one text")
    if len(texts) > settings.max_texts:
        raise HTTPException(
            413, f"found {len(texts):,} texts: expected at most {settings.max_texts:,} per request"
        )
    for number, text in enumerate(texts, start=1):
        longest = max(map(len, text)) if isinstance(text, tuple) else len(text)
        if longest > settings.max_characters:
            raise HTTPException(
                413,
                f"text {number} has {longest:,} characters: expected at most "
                f"{settings.max_characters:,}",
            )
    try:
        check_texts(texts, paired=paired)
    except InputError as error:
        raise HTTPException(422, str(error)) from None
    return texts


# -- what is answered ----------------------------------------------------------------------------


async def _unless_gone(request: Request, answer: Awaitable[list[Prediction]]) -> list[Prediction]:
    """The predictions, or an error as the client reads it; a client that has gone gets none."""

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    computed, left = asyncio.ensure_future(answer), asyncio.ensure_future(gone())
    try:
        await asyncio.wait({computed, left}, return_when=asyncio.FIRST_COMPLETED)
        if not computed.done():
            raise _gone()
        return computed.result()
    except QueueFull as full:
        raise HTTPException(
            503,
            f"too many texts are waiting: try again in {full.seconds} s",
            {"Retry-After": str(full.seconds)},
        ) from None
    except InputError as error:
        raise HTTPException(422, str(error)) from None
    except HTTPException:
        raise
    except Exception as error:  # what the model, its tokenizer or torch may raise
        raise HTTPException(500, _failed(error)) from None
    finally:
        computed.cancel()
        left.cancel()


def _gone() -> HTTPException:
    """The response for a client that has gone."""
    return HTTPException(499, "the client has gone")


def _json(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    # A class name may hold half of a surrogate pair, which only an escape can carry.
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    body = text.encode("utf-8", "backslashreplace")
    return Response(body, status, headers, media_type="application/json")


async def _problem(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    sentence = str(error.detail)
    if error.status_code in (404, 405):
        sentence = "expected POST /predict, GET /health, GET /openapi.json or GET /"
    return _json({"error": sentence}, error.status_code, error.headers)


async def _failure(_: Request, error: Exception) -> Response:
    return _json({"error": _failed(error)}, 500)


def _failed(error: Exception) -> str:
    """The answer; the log gets only the error's type and place, as its message may quote a text."""
    *_, last = traceback.extract_tb(error.__traceback__)
    place = f"{Path(last.filename).name}:{last.lineno}"
    logger.error("a request failed: %s at %s", type(error).__name__, place)
    reason = "out of memory" if explain(error) is not None else "an unexpected error"
    return f"the prediction failed ({reason}): the log of the service has more"


def _example_answer(about: Health) -> dict[str, Any]:
    """A made-up answer in which the first class is the most probable one."""
    others = len(about.classes) - 1
    shares = [0.8, *[round(0.2 / others, 4)] * others] if others else [1.0]
    probabilities = dict(zip(map(str, about.classes), shares, strict=True))
    prediction: dict[str, Any] = {"label": about.classes[0], "probabilities": probabilities}
    if about.abstain_below is not None:
        prediction["abstained"] = max(shares) < about.abstain_below
    return {"predictions": [prediction]}


def _page(about: Health) -> tuple[str, str]:
    """The page and its policy: it loads nothing, and runs no script but its own."""
    environment = Environment(
        loader=PackageLoader("lpft.serve"), autoescape=True, undefined=StrictUndefined
    )
    page = environment.get_template("page.html.j2").render(about=about)
    allowed = {
        element: base64.b64encode(sha256(text.encode()).digest()).decode()
        for element, text in re.findall(r"<(style|script)>(.*?)</\1>", page, re.DOTALL)
    }
    policy = (
        f"default-src 'none'; connect-src 'self'; script-src 'sha256-{allowed['script']}'; "
        f"style-src 'sha256-{allowed['style']}'; img-src data:; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'self'"
    )
    return page, policy
