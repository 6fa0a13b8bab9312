"""Each dialect answers what `Predictor` answers, and refuses in words what it cannot."""

from __future__ import annotations

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

from hierax.serve.payloads import image_of
from hierax.serve.replies import Refusal


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def data_address(data: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


def test_embeddings__equal_the_predictor(server, predictor, images):
    """Answers of a batch that were given to the wrong image, or rounded on the way, would differ."""
    asked = {"model": "any", "input": [data_address(each) for each in images]}
    wanted = predictor.embed([opened(each) for each in images])
    for form in ("float", "base64"):
        said = server.client.post("/v1/embeddings", json={**asked, "encoding_format": form}).json()
        values = [each["embedding"] for each in sorted(said["data"], key=lambda each: each["index"])]
        if form == "base64":
            values = [np.frombuffer(base64.b64decode(value), "<f4") for value in values]
        assert np.abs(np.array(values) - wanted).max() < 1e-5
        assert said["object"] == "list"
        assert said["model"] == predictor.card.name


def test_embeddings__normalized_on_request(server, images):
    said = server.client.post("/v1/embeddings", json={"input": data_address(images[0]), "normalize": True}).json()
    assert abs(np.linalg.norm(said["data"][0]["embedding"]) - 1) < 1e-6


@pytest.mark.parametrize("how", ["raw", "json", "form"])
def test_classify__equals_the_predictor(server, predictor, images, how):
    """The three bodies are one image."""
    text = base64.b64encode(images[1]).decode()
    if how == "raw":
        said = server.post("/classify?top_k=3", images[1]).json()
    elif how == "json":
        said = server.client.post("/classify", json={"inputs": text, "parameters": {"top_k": 3}}).json()
    else:
        said = server.client.post("/classify?top_k=3", files={"file": ("a.png", images[1], "image/png")}).json()
    wanted = predictor.classify(opened(images[1]), top_k=3)[0]
    assert [each["label"] for each in said] == [each.label for each in wanted]
    assert max(abs(a["score"] - b.score) for a, b in zip(said, wanted, strict=True)) < 1e-5


def test_classify__list_gives_lists(server, images):
    """One list for two images would be read as two classes of one."""
    texts = [base64.b64encode(each).decode() for each in images[:2]]
    said = server.client.post("/classify", json={"inputs": texts}).json()
    assert [len(each) for each in said] == [5, 5]


def test_classify__functions_of_the_schema(server, images):
    """`sigmoid` and `none` that gave softmax would sum to 1."""
    text = base64.b64encode(images[0]).decode()
    sums = {}
    for name in ("softmax", "sigmoid", "none"):
        parameters = {"top_k": 1000, "function_to_apply": name}
        said = server.client.post("/classify", json={"inputs": text, "parameters": parameters}).json()
        sums[name] = sum(each["score"] for each in said)
    assert abs(sums["softmax"] - 1) < 1e-6
    assert len({round(each, 3) for each in sums.values()}) == 3


def test_bodies_without_a_word__are_taken_for_what_they_are(server, images):
    """What curl sends where nobody names a type; and base64 in lines, as `base64` prints it."""
    right = server.post("/classify", images[0]).json()
    text = base64.encodebytes(images[0]).decode()
    for kind in ("application/x-www-form-urlencoded", "application/octet-stream"):
        assert server.post("/classify", images[0], kind).json() == right
    for kind in ("application/x-www-form-urlencoded", "application/json"):
        assert server.post("/classify", json.dumps({"inputs": text}), kind).json() == right


REFUSED = [
    ("/classify", b"", "image/png", 422, "Empty"),
    ("/classify", b"no image", "image/png", 422, "Validation"),
    ("/classify", b"{", "application/json", 422, "Validation"),
    ("/classify", b"[]", "application/json", 422, "Validation"),
    ("/classify", b'{"inputs": 3}', "application/json", 422, "Validation"),
    ("/classify", b'{"inputs": []}', "application/json", 422, "Empty"),
    ("/classify", b'{"inputs": "AAAA", "parameters": {"top_k": true}}', "application/json", 422, "Validation"),
    ("/classify", b'{"inputs": "AAAA", "parameters": {"topk": 1}}', "application/json", 422, "Validation"),
    ("/classify", b'{"inputs": "http://127.0.0.1/a.png"}', "application/json", 422, "Validation"),
    ("/classify?top_k=0", b"x", "image/png", 422, "Validation"),
    ("/classify?colour=1", b"x", "image/png", 422, "Validation"),
    ("/classify", b"<x/>", "text/xml", 415, "Validation"),
    ("/classify", b"--x", "multipart/form-data; boundary=x", 422, "Empty"),
    ("/classify", b"--x", "multipart/form-data", 422, "Validation"),
    ("/v1/embeddings", b'{"input": "file:///etc/passwd"}', "application/json", 422, "Validation"),
    ("/v1/embeddings", b'{"input": "data:text/plain,hello"}', "application/json", 422, "Validation"),
    ("/v1/embeddings", b'{"input": "a cat"}', "application/json", 422, "Validation"),
    ("/v1/embeddings", b'{"input": "AAAA", "dimensions": 3}', "application/json", 422, "Validation"),
    ("/v1/embeddings", b'{"input": "AAAA", "encoding_format": "hex"}', "application/json", 422, "Validation"),
    ("/v1/embeddings", b"\xff\xfe", "application/json", 422, "Validation"),
    ("/nowhere", b"", "image/png", 404, "NotFound"),
    ("/v2", b"", "image/png", 405, "Validation"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "body", "kind", "status", "error_type"), REFUSED)
def test_refused__in_one_shape(server, path, body, kind, status, error_type):
    """A stack trace, a path of the machine or another shape would be no answer that a program can read."""
    said = server.post(path, body, kind)
    assert (said.status_code, said.json()["error_type"]) == (status, error_type)
    assert set(said.json()) == {"error", "error_type"}
    assert "Traceback" not in said.text
    assert "/src/" not in said.text


def test_one_bad_image_of_several__is_named(server, images):
    said = server.client.post("/v1/embeddings", json={"input": [data_address(images[0]), "AAAA"]})
    assert said.status_code == 422
    assert "Image 1" in said.json()["error"]


@pytest.mark.parametrize(
    "address", ["http://a/b.png", "HTTPS://a/b.png", " ftp://a", "file:///a", "//a/b", "javascript:1", "blob:x"]
)
def test_addresses__are_never_fetched(address, monkeypatch):
    """Anything that opened a connection would reach into the network that the server stands in."""
    monkeypatch.setattr("socket.socket.connect", None)
    with pytest.raises(Refusal):
        image_of(address)


def test_server_metadata__says_what_answers(server, predictor):
    said = server.client.get("/v2").json()
    assert said["models"] == [predictor.card.name]
    assert said["model"]["license"] == predictor.card.license
    assert said["model"]["stages"]["stage3"] == {"channels": 128, "stride": 16}


def test_features__equal_the_predictor(server, predictor, images):
    """A transposed map, or the stages in another order, would differ."""
    wanted = predictor.features(opened(images[1]))
    one = server.post("/features?stage=stage3", images[1])
    assert one.headers["x-hierax-image-size"] == "70,130"
    found = np.load(io.BytesIO(one.content))
    assert found.dtype == np.float32
    assert np.abs(found - wanted["stage3"][0]).max() < 1e-5
    every = np.load(io.BytesIO(server.post("/features", images[1]).content))
    assert all(np.abs(every[name] - wanted[name][0]).max() < 1e-5 for name in wanted)


def test_features__of_cells(server, predictor, images):
    """Row and column exchanged would give other cells."""
    wanted = predictor.features(opened(images[0]), stages=["stage2"])["stage2"][0]
    said = server.post("/features?stage=stage2&cell=1,5&cell=11,0", images[0])
    found = np.load(io.BytesIO(said.content))
    assert np.abs(found - np.stack([wanted[:, 1, 5], wanted[:, 11, 0]])).max() < 1e-5
    as_json = server.post("/features?stage=stage2&cell=1,5&format=json", images[0]).json()
    assert np.abs(np.array(as_json["stage2"])[0] - wanted[:, 1, 5]).max() < 1e-5


@pytest.mark.parametrize(
    "query",
    ["stage=stage9", "stage=stage2&cell=12,0", "cell=1", "cell=-1,0", "format=json", "dtype=int8", "stages=stage1"],
)
def test_features__refused(server, images, query):
    said = server.post(f"/features?{query}", images[0])
    assert (said.status_code, said.json()["error_type"]) == (422, "Validation")


def test_docs__load_nothing(server):
    """A script from elsewhere would leave the page empty where there is no network."""
    page = server.client.get("/docs")
    assert page.status_code == 200
    assert "http" not in page.text
    assert "<script" not in page.text
    for path in server.client.get("/openapi.json").json()["paths"]:
        assert path in page.text
