"""Everything that runs beside the caller has an owner, who is named here: a new one needs a row.

A task, thread or process that nobody awaits dies without a word (`pipesd_core.service.tasks`).
"""

from __future__ import annotations

import ast

from repository import ROOT

STARTERS = {
    "create_task",
    "ensure_future",
    "run_in_executor",
    "to_thread",
    "Thread",
    "Timer",
    "ThreadPoolExecutor",
    "ProcessPoolExecutor",
    "Process",
    "Popen",
    "start_server",
    "TaskGroup",
    "call_later",
}
AWAITED = "whoever started it awaits it, and gets its exception"
OWNERS = {
    # Tasks that run as long as their program: `Tasks` starts them again, and `/ready` names them until they run.
    "service.tasks.Tasks.start": "Tasks: its own end is named too",
    "service.tasks.Tasks._keep": "sets what `/ready` says; a bug in it is logged by asyncio",
    # Threads and processes whose end `/ready` names, or whose owner starts them again.
    "drafting.worker.DraftWorker.__init__": "DraftWorker.fault, watched: `/ready` says drafter; served cloud-only",
    "drafting.worker.DraftWorker.aclose": AWAITED,
    "llamacpp.runtime.decoder.TargetDecoder.__init__": "TargetDecoder.fault, watched: `/ready` says decode thread",
    "llamacpp.runtime.decoder.TargetDecoder.aclose": AWAITED,
    "llamacpp.runtime.engine.EmbeddedEngine.__init__": "the executor of _prepare",
    "llamacpp.runtime.engine.EmbeddedEngine._prepare": AWAITED,
    "tuning.background.Background.submit": "Background: the next search starts another thread; failed proposers pause",
    "tuning.worker_process.WorkerProcess._start": "WorkerProcess: the next search starts another process",
    "tuning.worker_process.WorkerProcess.search": "kills the process when a search takes for ever",
    "telemetry.tracing.TraceFiles.__init__": "the executor of add, whose _write logs whatever happens to it",
    "telemetry.tracing.TraceFiles.aclose": AWAITED,
    "local.model.LocalModel._acquire": "the request that needs the model awaits it; the next one tries again",
    "local.model.LocalModel._load": AWAITED,
    "local.model.LocalModel._unload": "_work_done logs it; the next request awaits it",
    "local.model.LocalModel._release": "frees an idle model; one that broke is replaced by the next request",
    # Of one connection or one request.
    "link.link.Link._spawn": "Link._task_done logs it; a connection's end is seen by `ended`, and dialled again",
    "link.link.Link._adopt": "says that the link has lasted",
    "link.connection.Connection.run": AWAITED,
    "link.requests.RequestTable.arm_timer": "_tick: a request that fails in it is given up, the others go on",
    "agent_socket.AgentSocket.serve": AWAITED,
    "agent_socket.AgentSocket._pump": "_opening_done hangs up",
    "agent_socket.AgentSocket._rearm": "_tick hangs up, and ends the sessions",
    "engine.choices.MultiChoiceGeneration.open": "`next` raises what happened to it",
    "engine.translated.open_translated": AWAITED,
    "engine.translated.prompt_length": AWAITED,
    "service.http.while_connected": AWAITED,
    "service.startup.answering_while_starting": "one client each; ends with the start",
    "service.limits.BoundedHttp._await": "closes a connection",
    "service.limits.KeptAlive.run_asgi": "closes a connection",
    "service.queued_stream.Beginning.__init__": "`result` or `unwanted` awaits it",
    "service.queued_stream.Beginning.reached": AWAITED,
    "verify_api.verify": AWAITED,
    "pipesd_vllm.generation.VllmGeneration.open": "_ended logs it, and lets go of the request",
    "pipesd_vllm.rpc_coalescer.RpcCoalescer._flush": "_send tells every waiter what happened",
    "pipesd_vllm.compat.orphan.end_with_parent": "ends an engine core whose API server has gone; vLLM's own stays then",
    # Calls that block for a moment.
    "service.program.load_in_thread": AWAITED,
    "pipesd_gateway.api.create_app": AWAITED,
    "pipesd_agent.agent._store_thresholds": AWAITED,
    "pipesd_agent.agent.Agent.aclose": AWAITED,
    "api.app.create_app": AWAITED,
    # In tests' engine.
    "engine.fake.FakeGeneration._order": "a step of the fake engine",
}


def starts(tree: ast.AST, where: str) -> set[str]:
    """The innermost classes and functions of a module that start something."""
    found: set[str] = set()
    for node in ast.iter_child_nodes(tree):
        inside = where
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            outer_function = isinstance(tree, ast.FunctionDef | ast.AsyncFunctionDef)
            inside = where if outer_function else f"{where}.{node.name}"
        if isinstance(node, ast.Call):
            called = node.func
            name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
            if name in STARTERS:
                found.add(where)
        found |= starts(node, inside)
    return found


def test_everything_that_is_started_has_an_owner() -> None:
    found: set[str] = set()
    for path in sorted(ROOT.glob("*/src/*/**/*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts[2:]
        found |= starts(ast.parse(path.read_text("utf-8")), ".".join(parts))
    unowned = {name for name in found if not any(f".{name}".endswith(f".{owner}") for owner in OWNERS)}
    assert not unowned
    gone = {owner for owner in OWNERS if not any(f".{name}".endswith(f".{owner}") for name in found)}
    assert not gone
