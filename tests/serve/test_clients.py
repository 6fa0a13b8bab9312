"""The dialects as their own clients speak them."""

from __future__ import annotations

import numpy as np
import pytest

from .test_dialects import data_address, opened


@pytest.mark.parametrize("form", [None, "float", "base64"])
def test_openai(server, predictor, images, form):
    """Its client asks for base64 where nobody says otherwise, and decodes it itself."""
    openai = pytest.importorskip("openai")
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
    options = {} if form is None else {"encoding_format": form}
    said = client.embeddings.create(model="hiera", input=[data_address(each) for each in images], **options)
    found = [each.embedding for each in said.data]
    if form == "base64":
        import base64

        found = [np.frombuffer(base64.b64decode(each), "<f4") for each in found]
    assert np.abs(np.array(found) - predictor.embed([opened(each) for each in images])).max() < 1e-5
    with pytest.raises(openai.UnprocessableEntityError) as refused:
        client.embeddings.create(model="hiera", input="https://example.org/cat.png")
    assert "never fetched" in str(refused.value.body)


def test_huggingface(server, predictor, images, tmp_path, monkeypatch):
    """It sends a raw body, or JSON where there are parameters."""
    hub = pytest.importorskip("huggingface_hub")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    path = tmp_path / "a.png"
    path.write_bytes(images[2])
    client = hub.InferenceClient(model=f"{server.url}/classify")
    wanted = predictor.classify(path)[0]
    for said in (client.image_classification(path), client.image_classification(path, top_k=5)):
        assert [each.label for each in said] == [each.label for each in wanted]
        assert max(abs(a.score - b.score) for a, b in zip(said, wanted, strict=True)) < 1e-5


@pytest.fixture(scope="module")
def triton(server):
    http = pytest.importorskip("tritonclient.http")
    with http.InferenceServerClient(server.url.removeprefix("http://")) as client:
        yield http, client


def test_triton__metadata(triton, predictor):
    _, client = triton
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(predictor.card.name)
    assert client.get_server_metadata()["extensions"] == ["binary_tensor_data"]
    described = client.get_model_metadata(predictor.card.name)
    assert {each["name"] for each in described["inputs"]} == {"images", "pixels"}
    assert {"name": "stage3", "datatype": "FP32", "shape": [-1, 128, 6, 6]} in described["outputs"]


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("kind", ["images", "pixels"])
def test_triton__infer(triton, predictor, images, binary, kind):
    """Raw and JSON numbers, encoded images and tensors are the same question."""
    http, client = triton
    pictures = [opened(each) for each in images[:2]]
    if kind == "images":
        values = np.array(images[:2] if binary else [data_address(each) for each in images[:2]], dtype=object)
        tensor = http.InferInput("images", [2], "BYTES")
    else:
        values = np.stack([predictor.prepare(each).numpy() for each in pictures])
        tensor = http.InferInput("pixels", list(values.shape), "FP32")
    tensor.set_data_from_numpy(values, binary_data=binary)
    outputs = [http.InferRequestedOutput(name, binary_data=binary) for name in ("embedding", "stage3")]
    said = client.infer(predictor.card.name, [tensor], outputs=outputs, request_id="7")
    assert np.abs(said.as_numpy("embedding") - predictor.embed(pictures)).max() < 1e-5
    assert np.abs(said.as_numpy("stage3") - predictor.features(pictures, stages=["stage3"])["stage3"]).max() < 1e-5
    assert said.get_response()["id"] == "7"


def test_triton__classification_extension(triton, predictor, images):
    http, client = triton
    tensor = http.InferInput("images", [1], "BYTES")
    tensor.set_data_from_numpy(np.array([images[0]], dtype=object))
    said = client.infer(predictor.card.name, [tensor], outputs=[http.InferRequestedOutput("logits", class_count=2)])
    found = [each.decode().split(":")[2] for each in said.as_numpy("logits")[0]]
    assert found == [each.label for each in predictor.classify(opened(images[0]), top_k=2)[0]]


def test_triton__refused(triton, predictor):
    """NaN that went on would come back as a vector of a neighbour's batch that nobody can use."""
    http, client = triton
    error = pytest.importorskip("tritonclient.utils").InferenceServerException
    for value, words in ((np.nan, "finite"), (np.inf, "finite")):
        tensor = http.InferInput("pixels", [1, 3, 96, 96], "FP32")
        tensor.set_data_from_numpy(np.full((1, 3, 96, 96), value, np.float32))
        with pytest.raises(error, match=words):
            client.infer(predictor.card.name, [tensor])
    tensor = http.InferInput("pixels", [1, 3, 95, 96], "FP32")
    tensor.set_data_from_numpy(np.zeros((1, 3, 95, 96), np.float32))
    with pytest.raises(error, match="32"):
        client.infer(predictor.card.name, [tensor])
    with pytest.raises(error, match="has the model"):
        client.get_model_metadata("other")


def test_triton__tensors_of_several_sizes(triton, predictor):
    """Sizes are not mixed in one batch, and each gets its own answer."""
    import torch

    http, client = triton
    for side in (96, 128):
        values = np.random.default_rng(side).normal(size=(1, 3, side, side)).astype(np.float32)
        tensor = http.InferInput("pixels", list(values.shape), "FP32")
        tensor.set_data_from_numpy(values)
        said = client.infer(predictor.card.name, [tensor]).as_numpy("embedding")
        assert np.abs(said - predictor.embed(torch.from_numpy(values))).max() < 1e-5


@pytest.mark.parametrize(
    ("head", "tail"),
    [
        (b"{", b""),
        (b'{"inputs": []}', b""),
        (b'{"inputs": [{"name": "pixels", "shape": [1, 3, 96, 96], "datatype": "FP32", "data": [1]}]}', b""),
        (b'{"inputs": [{"name": "pixels", "shape": [1, 3, 96, 96], "datatype": "FP32", "data": [[1], [2, 3]]}]}', b""),
        (b'{"inputs": [{"name": "pixels", "shape": [99999, 3, 99999, 99999], "datatype": "FP32", "data": []}]}', b""),
        (b'{"inputs": [{"name": "pixels", "shape": [true], "datatype": "FP32", "data": []}]}', b""),
        (b'{"inputs": [{"name": "pixels", "shape": [1, 3, 1, 1], "datatype": "INT8", "data": [1, 1, 1]}]}', b""),
        (b'{"inputs": [{"name": "images", "shape": [1], "datatype": "BYTES", "data": ["http://a/b"]}]}', b""),
        (b'{"inputs": [{"name": "images", "shape": [1], "datatype": "BYTES", "data": [' + b"[" * 5000, b""),
        (b'{"inputs": [{"name": "images", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": 4}}]}', b"\xff" * 4),
        (b'{"inputs": [{"name": "images", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": 9}}]}', b""),
        (b'{"inputs": [{"name": "pixels", "shape": [1, 3, 96, 96], "datatype": [], "data": [1]}]}', b""),
        (b'{"inputs": [{"name": "pixels", "shape": [1, 3, 1, 1], "datatype": "FP32", "data": [{}, 1, 2]}]}', b""),
        (b'{"inputs": [{"name": "pixels", "shape": [1, 3, 1, 1], "datatype": "FP32", "data": [1e999, 1, 2]}]}', b""),
        (b'{"inputs": [{"name": [], "shape": [1], "datatype": "BYTES", "data": ["AAAA"]}], "outputs": 3}', b""),
        (b'{"inputs": [{"name": "images", "shape": [1], "datatype": "BYTES", "data": ["AAAA"]}], "outputs": [{"name": []}]}', b""),
        (b'{"inputs": [{"name": "images", "shape": [0], "datatype": "BYTES", "data": []}]}', b""),
        (b'{"inputs": [{"name": "other", "shape": [1], "datatype": "BYTES", "data": ["AAAA"]}]}', b""),
    ],
)  # fmt: skip
def test_inference__hostile(server, predictor, head, tail):
    headers = {"Inference-Header-Content-Length": str(len(head))}
    path = f"/v2/models/{predictor.card.name}/infer"
    said = server.post(path, head + tail, "application/octet-stream", headers=headers)
    assert said.status_code in (413, 422), said.text
    assert set(said.json()) == {"error", "error_type"}
