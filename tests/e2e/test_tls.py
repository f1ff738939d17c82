"""TLS from the agent to the embedded gateway: wss for sessions, https for the model list and for what is forwarded."""

from __future__ import annotations

import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from certificates import Authority
from harness import MODEL, Process, agent_process, gateway, openai_error, run_to_end, wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

ASK: dict[str, Any] = {"prompt": "def f(", "max_tokens": 8, "temperature": 0}
FORWARDED = ASK | {"prompt": ["def f(", "def g("]}


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls") / "ours")


@pytest.fixture(scope="module")
def target(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    certificate, key = authority.issue("gateway")
    with gateway(tmp_path_factory.mktemp("gateway"), "--tls-cert", str(certificate), "--tls-key", str(key)) as process:
        yield process


def test_everything_goes_through_tls(authority: Authority, target: Process, tmp_path: Path) -> None:
    assert target.url.startswith("https://127.0.0.1:")
    verify = ssl.create_default_context(cafile=authority.file)
    target_only = httpx.post(f"{target.url}/completions", json=ASK, verify=verify, timeout=30).json()["choices"][0][
        "text"
    ]
    for address in (target.root, target.root.replace("https", "wss")):
        with agent_process(tmp_path, address, "--ca-file", str(authority.file)) as agent:
            wait_until(lambda: httpx.get(f"{agent.url}/models").json()["data"] != [])
            assert httpx.get(f"{agent.url}/models").json()["data"][0]["id"] == MODEL
            answer = httpx.post(f"{agent.url}/completions", json=ASK, timeout=30)
            assert answer.json()["choices"][0]["text"] == target_only
            assert "x-pipesd-mode" not in answer.headers
            assert httpx.get(f"{agent.root}/health").json()["gateway"] == "connected"
            # The embedded engine refuses two prompts, or answers them: either way it is the gateway that says so.
            forwarded = httpx.post(f"{agent.url}/completions", json=FORWARDED, timeout=30)
            assert forwarded.headers["x-pipesd-mode"] == "cloud"
            assert forwarded.status_code in (200, 400)


def test_no_old_protocol_version(authority: Authority, target: Process) -> None:
    old = ssl.create_default_context(cafile=authority.file)
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    assert httpx.get(f"{target.root}/health", verify=old).status_code == 200
    with pytest.warns(DeprecationWarning, match="TLS"):
        old.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.warns(DeprecationWarning, match="TLS"):
        old.minimum_version = ssl.TLSVersion.TLSv1
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{target.root}/health", verify=old)


@pytest.mark.parametrize("trusted", ["another authority", "public ones"])
def test_an_authority_that_is_not_trusted(target: Process, tmp_path: Path, trusted: str) -> None:
    flags = ["--ca-file", str(Authority(tmp_path / "other").file)] if trusted == "another authority" else []
    with agent_process(tmp_path, target.root, *flags, draft=None) as agent:
        for body in (ASK, FORWARDED):
            error = openai_error(httpx.post(f"{agent.url}/completions", json=body, timeout=30), 503)
            assert "the certificate of the gateway" in error["message"]
            assert "is not trusted" in error["message"]
            assert "set ca_file" in error["message"]
        assert "is not trusted" in httpx.get(f"{agent.root}/health").json()["gateway"]
        assert "is not trusted" in agent.log.read_text()
        assert httpx.get(f"{agent.url}/models").json()["data"] == []


def test_a_certificate_for_another_host(authority: Authority, tmp_path: Path) -> None:
    certificate, key = authority.issue("elsewhere", "DNS:elsewhere.example")
    with (
        gateway(tmp_path, "--tls-cert", str(certificate), "--tls-key", str(key)) as target,
        agent_process(tmp_path, target.root, "--ca-file", str(authority.file), draft=None) as agent,
    ):
        error = openai_error(httpx.post(f"{agent.url}/completions", json=ASK, timeout=30), 503)
        assert "is not trusted (IP address mismatch" in error["message"]
        assert "check the host's name" in error["message"]


def test_an_agent_without_tls_at_a_gateway_with_it(target: Process, tmp_path: Path) -> None:
    with agent_process(tmp_path, target.root.replace("https", "http"), draft=None) as agent:
        error = openai_error(httpx.post(f"{agent.url}/completions", json=ASK, timeout=30), 503)
        assert "cannot reach the gateway ws://" in error["message"]


def test_files_that_cannot_be_used_are_one_line_and_code_2(authority: Authority, tmp_path: Path) -> None:
    certificate, key = map(str, authority.issue("other"))
    other_key = str(authority.issue("another")[1])
    nonsense = tmp_path / "nonsense.pem"
    nonsense.write_text("no certificate")
    locked = tmp_path / "locked.key"
    run = ["rsa", "-in", key, "-aes128", "-passout", "pass:secret", "-out", str(locked)]
    subprocess.run(["openssl", *run], check=True, capture_output=True, timeout=60)
    for flags, said in (
        (["--tls-cert", "/nowhere.pem", "--tls-key", key], "No such file"),
        (["--tls-cert", certificate, "--tls-key", str(nonsense)], "PEM"),
        (["--tls-cert", certificate, "--tls-key", other_key], "mismatch"),
        (["--tls-cert", certificate, "--tls-key", str(locked)], "without a passphrase"),
        (["--tls-cert", certificate], "PEM"),
        (["--tls-key", key], "tls_key is of use with tls_cert only"),
    ):
        done = run_to_end("pipesd_gateway", "serve", "--model", "m.gguf", "--port", "0", *flags)
        assert done.returncode == 2, done.stderr
        (line,) = done.stderr.splitlines()
        assert said.lower() in line.lower()
