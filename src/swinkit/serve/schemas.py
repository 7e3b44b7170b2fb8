"""The shapes of answers, as the API describes them."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class Guess(BaseModel):
    """A class and how probable it is."""

    label: str
    index: int = Field(ge=0, description="The number of the class, from 0.")
    probability: float = Field(ge=0, le=1)


class ImageResult(BaseModel):
    """The guesses for one image, best first."""

    name: str | None = Field(description="The file name that the client gave, without folders.")
    predictions: list[Guess]


class Timing(BaseModel):
    """Where the time went, in milliseconds."""

    decode: float = Field(ge=0, description="Reading the images, waiting for a thread that does included.")
    queue: float = Field(ge=0, description="Waiting for the model.")
    model: float = Field(ge=0, description="In the model, with the images of others in the same batch.")
    total: float = Field(ge=0, description="From the head of the request to the answer.")


class Predictions(BaseModel):
    """One result per image, in the order they came."""

    model: str
    request_id: str
    results: list[ImageResult]
    timing_ms: Timing


class Vector(BaseModel):
    """An image as a vector: what the classifier takes."""

    name: str | None
    embedding: list[float]


class Vectors(BaseModel):
    """One vector per image, in the order they came."""

    model: str
    request_id: str
    results: list[Vector]
    timing_ms: Timing


class ModelFacts(BaseModel):
    """A model that is served."""

    name: str
    about: str = Field(description="What computes it.")
    classes: list[str]
    img_size: list[int] = Field(min_length=2, max_length=2, description="Height and width that images are brought to.")
    explains: bool = Field(description="Whether POST /explain works.")
    embeds: bool = Field(description="Whether POST /embed works.")


class Models(BaseModel):
    """All of them; the first is taken where a request names none."""

    models: list[ModelFacts]


class Status(BaseModel):
    """A state in a word."""

    status: str


class Base64Images(BaseModel):
    """Images as JSON: the bytes of files in base64."""

    model_config = ConfigDict(extra="forbid", strict=True)

    images: list[Annotated[str, Field(json_schema_extra={"contentEncoding": "base64"})]] = Field(min_length=1)


class Problem(BaseModel):
    """Why there is no result."""

    code: str = Field(description="A word for programs, such as bad_image.")
    message: str = Field(description="A sentence for people.")
    request_id: str


class Failed(BaseModel):
    """Every answer that is no result."""

    error: Problem
