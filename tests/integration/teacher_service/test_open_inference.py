"""A teacher behind a real server of the Open Inference Protocol v2."""

import asyncio
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from moma_core.errors import ConfigError, MismatchError, TeacherUnavailableError
from moma_core.pki.certificates import Credential
from moma_proto.v1 import teacher_pb2 as pb
from moma_server.cli.main import main
from tests.support.federation.pki import Pki
from tests.support.machine.ports import free_port
from tests.support.teacher.imported import (
    CLASSES,
    NAMES,
    SIDE_PX,
    patches,
    served,
)
from tests.support.teacher.inference_server import (
    DEPTH,
    MODEL,
    InferenceServer,
    Mood,
    expected,
)
from tests.support.teacher.teacher_server import ask, refusal, serving


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InferenceServer]:
    with InferenceServer(tmp_path_factory.mktemp("oip") / "mlserver") as server:
        yield server


@pytest.fixture
def server(started: InferenceServer) -> InferenceServer:
    started.behave("normal")
    return started


@pytest.fixture(autouse=True)
def tls12_is_forbidden(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a fresh program: here another test may have imported grpc before."""
    monkeypatch.setenv("GRPC_SSL_CIPHER_SUITES", "ECDHE-RSA-AES256-GCM-SHA384")


def _imported(folder: Path, server: InferenceServer) -> Path:
    """Does what an institution does: looks, corrects, makes the card."""
    out = folder / "made"
    line = ["teacher", "import", "--out", str(out), "--accelerator", "cpu"]
    model = f"grpc://{server.address}/{MODEL}"
    assert main([*line, model, "--classes", ",".join(CLASSES)]) == 0
    path = out / "import.yaml"
    corrected = {"mean": NAMES["mean"], "std": NAMES["std"]}
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | corrected))
    assert main([*line, "--recipe", str(path)]) == 0
    return out


def _changed(made: Path, **backend: Any) -> dict[str, Any]:
    lines = yaml.safe_load((made / "backend.yaml").read_text())
    return {"backend": {**lines["backend"], **backend}}


def _request() -> pb.EmbedRequest:
    return pb.EmbedRequest(
        request_id=os.urandom(16),
        patches=3,
        height_px=SIDE_PX,
        width_px=SIDE_PX,
        format=pb.PIXEL_FORMAT_RGB_UINT8,
        pixels=patches().tobytes(),
    )


def test_a_model_server_answers_as_its_model_does(
    tmp_path: Path, server: InferenceServer, capsys: pytest.CaptureFixture[str]
) -> None:
    made = _imported(tmp_path, server)

    embedding, logits = served(tmp_path, made).predict(patches())

    features, scores = expected(patches())
    np.testing.assert_allclose(embedding, features, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(logits, scores, rtol=1e-4, atol=1e-4)
    shown = capsys.readouterr().out
    assert f"embedding    {DEPTH} values" in shown
    assert f"images, nchw, {SIDE_PX} px" in shown


def test_a_site_is_answered_and_charged(
    tmp_path: Path, pki: Pki, site: Credential, server: InferenceServer
) -> None:
    backend = served(tmp_path, _imported(tmp_path, server))

    async def scenario() -> None:
        async with (
            serving(tmp_path, pki, backend) as teacher,
            teacher.stub(site) as stub,
        ):
            (answer,) = await ask(stub, _request())
            budget = await stub.Budget(pb.BudgetRequest())
            patches_asked = teacher.metric(
                "patches_total", site="site-a", teacher="teacher-a"
            )
        found = np.frombuffer(answer.embedding, np.float32).reshape(3, DEPTH)
        np.testing.assert_allclose(found, expected(patches())[0], rtol=1e-4, atol=1e-4)
        assert (budget.charged_patches, patches_asked) == (3, 3)

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("mood", "said"),
    [
        ("slow", "did not answer within 0.5 s"),
        ("shape", "one row a patch is due|says"),
        ("other", "does not answer its reference patch as its card says"),
        ("broken", r"the model server behind the teacher failed \(\w+\)"),
    ],
)
def test_a_server_that_goes_wrong_is_one_sentence_and_charges_nothing(
    tmp_path: Path,
    pki: Pki,
    site: Credential,
    server: InferenceServer,
    mood: Mood,
    said: str,
) -> None:
    made = _imported(tmp_path, server)
    quick = _changed(made, timeout_seconds=0.5, recheck_seconds=0.001)
    backend = served(tmp_path, made, **quick)

    async def scenario() -> None:
        async with (
            serving(tmp_path, pki, backend) as teacher,
            teacher.stub(site) as stub,
        ):
            server.behave(mood)
            error = await refusal(stub, _request())
            budget = await stub.Budget(pb.BudgetRequest())
            server.behave("normal")
            assert len(await ask(stub, _request())) == 1
        assert isinstance(error, TeacherUnavailableError)
        assert re.search(said, str(error))
        assert server.address not in str(error)
        assert "secret" not in str(error)
        assert budget.charged_patches == 0

    asyncio.run(scenario())


def test_more_patches_than_one_message_of_the_server_holds_are_answered(
    tmp_path: Path, server: InferenceServer, caplog: pytest.LogCaptureFixture
) -> None:
    backend = served(tmp_path, _imported(tmp_path, server))
    many = np.tile(patches(), (200, 1, 1, 1))  # 7 MiB, and gRPC's own limit is 4

    embedding, _ = backend.predict(many)

    features, _ = expected(many)
    np.testing.assert_allclose(embedding, features, rtol=1e-4, atol=1e-4)
    assert "600 patches at once: it gets 300 from now on" in caplog.text


def test_another_model_at_the_start_is_not_served(
    tmp_path: Path, server: InferenceServer
) -> None:
    made = _imported(tmp_path, server)
    server.behave("other")

    with pytest.raises((MismatchError, TeacherUnavailableError), match="card"):
        served(tmp_path, made)


def test_the_digest_counts_the_model_and_not_where_it_is(
    tmp_path: Path, server: InferenceServer
) -> None:
    made = _imported(tmp_path, server)

    address = f"localhost:{server.port}"
    assert served(tmp_path, made, **_changed(made, address=address))
    outputs = {"embedding": "scores", "logits": "scores"}
    with pytest.raises(ConfigError, match="says digest"):
        served(tmp_path, made, **_changed(made, outputs=outputs))


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("grpc://{there}/nothing", "does not show 'nothing'"),
        ("grpc://{nowhere}/colour", "does not show 'colour': UNAVAILABLE"),
        ("grpc://{there}", "names no model"),
    ],
)
def test_a_model_that_is_not_there_is_one_sentence(
    tmp_path: Path,
    server: InferenceServer,
    caplog: pytest.LogCaptureFixture,
    model: str,
    said: str,
) -> None:
    nowhere = f"127.0.0.1:{free_port()}"
    name = model.format(there=server.address, nowhere=nowhere)

    assert main(["teacher", "import", name, "--out", str(tmp_path)]) == 1

    assert said in caplog.text
