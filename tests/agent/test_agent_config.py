from __future__ import annotations

import re
import ssl
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import get_args

import msgspec
import pytest
from repository import ROOT

from pipesd_agent.config import GATEWAY_KEY, AgentConfig, load
from pipesd_agent.control.triggers import BY_ENTROPY, FixedSettings, TriggerSettings
from pipesd_agent.link.address import Address
from pipesd_agent.session.settings import SessionSettings
from pipesd_agent.tuning.settings import TunerSettings
from pipesd_core.errors import ConfigError


def write(path: Path, text: str) -> Path:
    path.write_text(text, "utf-8")
    return path


def test_defaults() -> None:
    assert load({}, {}, None) == AgentConfig()


def test_a_flag_beats_the_environment_and_that_beats_the_file(tmp_path: Path) -> None:
    keys = {name: str(write(tmp_path / name, f"{name}-key\n")) for name in ("flag", "file")}
    file = write(
        tmp_path / "a.toml",
        f'port = 1\ncapacity = 2\ngateway_api_key_file = "{keys["file"]}"\n[trigger]\nkind = "fixed"\nlength = 3\n'
        "[session]\nverification_timeout_s = 1\n",
    )
    config = load({"port": 7}, {}, file)
    assert (config.port, config.capacity) == (7, 2)
    assert config.trigger == FixedSettings(length=3)
    assert config.session == SessionSettings(verification_timeout_s=1.0)
    environ = {GATEWAY_KEY.variable: "environment-key"}
    assert load({}, {}, file).gateway_api_key == "file-key"
    assert load({}, environ, file).gateway_api_key == "environment-key"
    assert load({"gateway_api_key_file": keys["flag"]}, environ, file).gateway_api_key == "flag-key"
    assert load({}, {}, None).gateway_api_key is None


@pytest.mark.parametrize("kind", BY_ENTROPY)
def test_entropy_triggers_need_a_draft_model(kind: str) -> None:
    trigger = msgspec.convert({"kind": kind}, TriggerSettings)
    with pytest.raises(ConfigError, match=f"'{kind}' looks at .* set draft_model"):
        AgentConfig(trigger=trigger)
    assert AgentConfig(trigger=trigger, draft_model=Path("draft.gguf")).trigger is trigger
    assert AgentConfig(trigger=trigger, mode="cloud").trigger is trigger


@pytest.mark.parametrize(
    ("gateway", "socket", "http"),
    [
        ("http://h:1", "ws://h:1/v1/pipesd/ws", "http://h:1"),
        ("ws://h:1/v1/pipesd/ws", "ws://h:1/v1/pipesd/ws", "http://h:1"),
        ("https://h/v1/", "wss://h/v1/pipesd/ws", "https://h"),
        ("wss://h/team/a", "wss://h/team/a/v1/pipesd/ws", "https://h/team/a"),
        ("http://[::1]:8100", "ws://[::1]:8100/v1/pipesd/ws", "http://[::1]:8100"),
    ],
)
def test_addresses(gateway: str, socket: str, http: str) -> None:
    config = AgentConfig(gateway=gateway)
    assert config.addresses == (Address(socket, http),)


@pytest.mark.parametrize(
    "gateway",
    [
        *("", "localhost:8100", "ftp://h", "http://", "http://:80", "http://h:99999", "http://h:x", "http://[::1"),
        *("http://a b", "http://" + "a" * 70, "http://a..b"),
    ],
)
def test_what_is_no_address(gateway: str) -> None:
    with pytest.raises(ConfigError, match=r"gateway must be an address such as .*but is " + re.escape(repr(gateway))):
        AgentConfig(gateway=gateway)


def test_a_list_of_gateways(tmp_path: Path) -> None:
    listed = AgentConfig(gateway=("http://a:1", "wss://b"))
    assert [address.http for address in listed.addresses] == ["http://a:1", "https://b"]
    file = write(tmp_path / "a.toml", 'gateway = ["http://a:1", "wss://b"]')
    assert load({}, {}, file) == listed
    assert load({}, {"PIPESD_AGENT_GATEWAY": "http://a:1, wss://b"}, None) == listed
    assert load({"gateway": ["http://a:1", "wss://b"]}, {"PIPESD_AGENT_GATEWAY": "http://c"}, file) == listed
    assert listed.network({}).websocket_options("wss://b")["ssl"].get_ca_certs(), "for the one that is secure"


@pytest.mark.parametrize(
    ("gateway", "message"),
    [
        ((), "number of gateways must lie between 1 and 8, but is 0"),
        (tuple(f"http://h{n}" for n in range(9)), "between 1 and 8, but is 9"),
        (("http://a", "http://b", "ws://a/v1"), "gateway has http://a twice"),
        (("http://a", "b"), "gateway must be an address .* but is 'b'"),
        ("https://user:secret@h", "without a user or password: set gateway_api_key_file$"),
    ],
)
def test_lists_that_are_none(gateway: str | tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        AgentConfig(gateway=gateway)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("port = 70000", "port must lie between 0 and 65535, but is 70000"),
        ("capacity = 0", "capacity must lie between 1 and 64"),
        ("context = 1", "context must lie between 64"),
        ("threads = 0", "threads must lie between 1"),
        ("gpu_layers = -2", "gpu_layers must lie between -1 and 10000, but is -2"),
        ('gpu_layers = "all"', r"a\.toml.*gpu_layers"),
        ('batcher = "greedy"', "batcher must be one of immediate, single, dp, expected, but is 'greedy'"),
        ('log_level = "loud"', "log_level must be one of"),
        ('mode = "edge"', 'mode = "edge" needs a model that can answer alone: set draft_model'),
        ('fallback = "edge"', 'fallback = "edge" needs a model that can answer alone: set draft_model'),
        ('fallback = "cloud"', r"a\.toml.*cloud"),
        ("[trigger]\nr1 = 2", r"trigger\.r1 must lie between 0 and 1"),
        ("[session]\nwindow = 5000", "window must lie between 1 and 1024"),
        ("[session]\nwindo = 5", r"a\.toml.*windo"),
        ("draft_model = 1", r"path.*draft_model"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        load({}, {}, write(tmp_path / "a.toml", text))
    assert re.search(message, str(error.value))


def _numbers(kind: type[msgspec.Struct], table: str = "") -> Iterator[tuple[str, str, bool]]:
    """(head of its table in the file, name, whether it is whole) of every number that a user can name."""
    for field in msgspec.structs.fields(kind):
        kinds = get_args(field.type) if isinstance(field.type, UnionType) else (field.type,)
        for one in kinds:
            if isinstance(one, type) and issubclass(one, msgspec.Struct):
                tag = one.__struct_config__.tag
                yield from _numbers(one, f"[{field.name}]\n" + ("" if tag is None else f'kind = "{tag}"\n'))
            elif one in (int, float):
                yield table, field.name, one is int


@pytest.mark.parametrize(("table", "name", "whole"), [*_numbers(AgentConfig)])
def test_every_number_has_bounds(tmp_path: Path, table: str, name: str, *, whole: bool) -> None:
    for value in ("1" + 17 * "0", "-" + 18 * "1") if whole else ("1e300", "-1e300", "nan", "inf"):
        with pytest.raises(ConfigError) as error:
            load({}, {}, write(tmp_path / "a.toml", f"{table}{name} = {value}\n"))
        assert name in str(error.value)
        assert re.search(value[:3].replace("1e3", r"1e\+3"), str(error.value))


def test_keys_that_no_header_can_carry_or_too_many(tmp_path: Path) -> None:
    for key in ("schlüssel", "a\x01b"):
        with pytest.raises(ConfigError, match="printable ASCII") as error:
            load({}, {GATEWAY_KEY.variable: key}, None)
        assert key not in str(error.value)
    with pytest.raises(ConfigError, match="one key for its gateway, but 2"):
        load({"gateway_api_key_file": str(write(tmp_path / "k", "a\nb\n"))}, {}, None)


def test_the_network(tmp_path: Path) -> None:
    assert "ssl" not in AgentConfig(gateway="http://h").network({}).websocket_options("ws://h/v1/pipesd/ws")
    context = AgentConfig(gateway="https://h").network({}).websocket_options("wss://h/v1/pipesd/ws")["ssl"]
    assert context.verify_mode is ssl.CERT_REQUIRED
    for ca_file in (tmp_path / "nowhere.pem", write(tmp_path / "empty.pem", "no certificate")):
        with pytest.raises(ConfigError, match=f"cannot use ca_file {ca_file}"):
            AgentConfig(gateway="wss://h", ca_file=ca_file).network({})
    broken = {"HTTPS_PROXY": "socks://h", "SSL_CERT_FILE": "/nowhere"}
    with pytest.raises(ConfigError, match="HTTPS_PROXY"):
        AgentConfig(gateway="wss://h").network(broken)
    AgentConfig(gateway="wss://h", mode="edge", draft_model=tmp_path).network(broken)  # asks no gateway


def test_the_ready_configuration_works_and_shows_the_defaults() -> None:
    config = load({}, {}, ROOT / "configs" / "agent.toml")
    assert config == AgentConfig(draft_model=config.draft_model)
    assert config.draft_model is not None


def test_a_ca_file_for_a_gateway_without_tls_is_refused() -> None:
    with pytest.raises(ConfigError, match="ca_file is of use for https:// and wss:// gateways only"):
        AgentConfig(gateway="http://127.0.0.1:8100", ca_file=Path("ca.pem"))


def test_offload_keeps_the_target_waiting_for_the_first_draft_unless_told_otherwise() -> None:
    assert AgentConfig(objective="offload").sessions == SessionSettings(free_start=1)
    assert AgentConfig(objective="offload", session=SessionSettings(free_start=5)).sessions.free_start == 5
    assert AgentConfig(objective="offload", mode="collaborative").sessions.free_start is None
    assert AgentConfig().sessions.free_start is None


def test_a_price_needs_somebody_who_heeds_it() -> None:
    price = TunerSettings(verification_cost_ms=5.0)
    assert AgentConfig(tuner=price).tuner.verification_cost_ms == 5.0
    with pytest.raises(ConfigError, match=r"tuner.verification_cost_ms is 5.0.*trigger.kind 'fixed'"):
        AgentConfig(tuner=price, trigger=FixedSettings())
    with pytest.raises(ConfigError, match=r"tuner.enabled = false"):
        AgentConfig(tuner=TunerSettings(enabled=False, verification_cost_ms=5.0))
