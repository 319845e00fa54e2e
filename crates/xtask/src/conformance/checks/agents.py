"""Coding agents, as their users start them: Claude Code, Codex, opencode, Cline. Each works in a folder of its own, with a
home of its own, and gets a script that says which tools to call; what is judged is that the protocol carries it.
"""

import json
import os
import pathlib
import re
import shutil
import subprocess

from check import CALF, KEY, MODEL, SCRIPTED, SUM, call, check, run, same, say, script, think

BIN = pathlib.Path(os.environ["CUVIER_NODE"]) / "node_modules" / ".bin"
FOLDER = pathlib.Path(os.environ["CUVIER_NODE"]).parent
WORK = FOLDER / "agents"
TIMEOUT = 240


def version(package):
    return json.loads((BIN.parent / package / "package.json").read_text())["version"]


def fresh(name):
    """An empty repository to work in, and a home beside it."""
    shutil.rmtree(WORK / name, ignore_errors=True)
    work, home = WORK / name / "work", WORK / name / "home"
    work.mkdir(parents=True)
    home.mkdir()
    subprocess.run(["git", "init", "--quiet", work], check=True)
    return work, home


class Log:
    """What a server logs while an agent is at work."""

    def __init__(self, server):
        self.file = FOLDER / ("calf.log" if server == CALF else "scripted.log")
        self.start = self.file.stat().st_size

    def check(self, path):
        """Every request to `path` went well, and there were some."""
        text = self.file.read_bytes()[self.start :].decode()
        requests = re.findall(r'method=(\S+) path="([^"]*)" status=(\d+)', text)
        bad = [request for request in requests if request[2][0] in "45"]
        assert not bad, f"refused: {bad}"
        answered = [request for request in requests if request[1] == path]
        assert answered, f"nothing was asked of {path}: {requests}"
        return len(answered)


def start(program, arguments, work, home, said="", exits=(0,), **variables):
    environment = {"PATH": os.environ["PATH"], "HOME": str(home), "LANG": "C.UTF-8", **variables}
    done = subprocess.run(
        [BIN / program, *arguments], cwd=work, env=environment, input=said, capture_output=True, text=True,
        timeout=TIMEOUT,
    )
    assert done.returncode in exits, f"exit {done.returncode}: {done.stderr[-500:]} {done.stdout[-500:]}"
    return done.stdout


def claude(server, name, prompt, *options, **more):
    work, home = fresh(name)
    prompt = prompt.replace("WORK", str(work))
    variables = {
        "ANTHROPIC_BASE_URL": server, "ANTHROPIC_AUTH_TOKEN": KEY, "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        **more,
    }
    arguments = ["-p", prompt, "--output-format", "stream-json", "--verbose", "--max-turns", "6", *options]
    lines = start("claude", arguments, work, home, **variables).splitlines()
    return work, [json.loads(line) for line in lines if line.startswith("{")]


@check(27, "Claude Code says what the model says")
def claude_hello():
    log = Log(SCRIPTED)
    _, lines = claude(SCRIPTED, "claude", script([think("Hm."), say("Well met, traveller.")]))
    same((lines[-1]["subtype"], lines[-1]["result"]), ("success", "Well met, traveller."))
    log.check("/v1/messages")


@check(27, "Claude Code with the toy")
def claude_toy():
    """Behind so many tools the toy rambles until its tokens are used up. It is given few; then Claude Code asks it to go
    on, three times, and says so. Judged is that every answer was read.
    """
    log = Log(CALF)
    _, lines = claude(CALF, "claude-toy", SUM, exits=(0, 1), CLAUDE_CODE_MAX_OUTPUT_TOKENS="256")
    result = lines[-1]
    same(result["subtype"], "success")
    assert not result["is_error"] or "256 output token maximum" in result["result"], result["result"]
    said = [block for line in lines if line["type"] == "assistant" for block in line["message"]["content"]]
    assert any(block.get("thinking") or block.get("text") for block in said[:2]), said
    log.check("/v1/messages")


@check(27, "Claude Code uses two tools, and its prompts are cached")
def claude_tools():
    log = Log(SCRIPTED)
    prompt = script(
        [think("Write."), call("Bash", command="echo whale > note.txt", description="Write a note")],
        [think("Read."), call("Read", file_path="WORK/note.txt")],
        [think("Done."), say("The note says whale.")],
    )
    work, lines = claude(SCRIPTED, "claude-tools", prompt, "--allowedTools", "Bash", "Read")
    same(lines[-1]["result"], "The note says whale.")
    same((work / "note.txt").read_text(), "whale\n")
    usages = {line["message"]["id"]: line["message"]["usage"] for line in lines if line["type"] == "assistant"}
    same(len(usages), 3)
    for usage in list(usages.values())[1:]:
        total = usage["input_tokens"] + usage["cache_read_input_tokens"]
        assert usage["cache_read_input_tokens"] >= 0.95 * total, f"{usage['cache_read_input_tokens']} of {total} cached"
    same(log.check("/v1/messages"), 3)


def codex(server, name, prompt, *options):
    work, home = fresh(name)
    (home / ".codex").mkdir()
    (home / ".codex/config.toml").write_text(
        f"""model = "{MODEL}"
model_provider = "cuvier"
model_context_window = 131072

[model_providers.cuvier]
name = "Cuvier"
base_url = "{server}/v1"
wire_api = "responses"
env_key = "CUVIER_API_KEY"

[analytics]
enabled = false
"""
    )
    output = start("codex", ["exec", "--json", *options, prompt], work, home, CUVIER_API_KEY=KEY)
    return work, [json.loads(line) for line in output.splitlines() if line.startswith("{")]


def codex_said(events):
    items = [event["item"] for event in events if event["type"] == "item.completed"]
    return [item["text"] for item in items if item["type"] == "agent_message"], items


@check(28, "Codex says what the model says")
def codex_hello():
    log = Log(SCRIPTED)
    _, events = codex(SCRIPTED, "codex", script([think("Hm."), say("Well met, traveller.")]), "--sandbox", "read-only")
    same(codex_said(events)[0], ["Well met, traveller."])
    same(events[-1]["type"], "turn.completed")
    same(log.check("/v1/responses"), 1)


@check(28, "Codex runs a command and gives back its output")
def codex_tools():
    log = Log(SCRIPTED)
    prompt = script(
        [think("Write."), call("exec_command", cmd="echo whale > note.txt; cat note.txt")],
        [think("Done."), say("The note says whale.")],
    )
    # The folder is a fresh one, and a sandbox in a container is often not to be had.
    work, events = codex(SCRIPTED, "codex-tools", prompt, "--dangerously-bypass-approvals-and-sandbox")
    said, items = codex_said(events)
    same(said, ["The note says whale."])
    same([item["aggregated_output"] for item in items if item["type"] == "command_execution"], ["whale\n"])
    same((work / "note.txt").read_text(), "whale\n")
    usage = events[-1]["usage"]
    assert usage["cached_input_tokens"] > 0.45 * usage["input_tokens"], usage
    same(log.check("/v1/responses"), 2)


def opencode(server, name, prompt):
    work, home = fresh(name)
    model = {"name": "DeepSeek V4", "reasoning": True, "tool_call": True, "limit": {"context": 131072, "output": 32000}}
    options = {"baseURL": f"{server}/v1", "apiKey": KEY}
    provider = {"npm": "@ai-sdk/openai-compatible", "name": "Cuvier", "options": options, "models": {MODEL: model}}
    settings = {
        "$schema": "https://opencode.ai/config.json", "autoupdate": False, "share": "disabled",
        "model": f"cuvier/{MODEL}", "small_model": f"cuvier/{MODEL}", "provider": {"cuvier": provider},
        # A model that calls a tool for ever is stopped.
        "agent": {"build": {"steps": 5}},
    }
    (work / "opencode.json").write_text(json.dumps(settings))
    switches = ["AUTOUPDATE", "MODELS_FETCH", "LSP_DOWNLOAD", "DEFAULT_PLUGINS"]
    variables = {f"OPENCODE_DISABLE_{switch}": "1" for switch in switches}
    # An argument with spaces would be put into quotes; what is piped is not.
    output = start("opencode", ["run", "--format", "json"], work, home, prompt, **variables)
    return work, [json.loads(line) for line in output.splitlines() if line.startswith("{")]


@check(29, "opencode says what the model says")
def opencode_hello():
    log = Log(SCRIPTED)
    _, events = opencode(SCRIPTED, "opencode", script([think("Hm."), say("Well met, traveller.")]))
    same([event["part"]["text"] for event in events if event["type"] == "text"], ["Well met, traveller."])
    log.check("/v1/chat/completions")


@check(29, "opencode runs a command and gives back its output")
def opencode_tools():
    log = Log(SCRIPTED)
    prompt = script(
        # Nothing but what this version's tool takes: another parameter is masked, and chance puts one in its place.
        [think("Write."), call("bash", command="echo whale > note.txt; cat note.txt")],
        [think("Done."), say("The note says whale.")],
    )
    work, events = opencode(SCRIPTED, "opencode-tools", prompt)
    calls = [event["part"]["state"] for event in events if event["type"] == "tool_use"]
    same([call["input"] for call in calls], [{"command": "echo whale > note.txt; cat note.txt"}])
    same([call["output"].strip() for call in calls], ["whale"])
    same([event["part"]["text"] for event in events if event["type"] == "text"][-1], "The note says whale.")
    same((work / "note.txt").read_text(), "whale\n")
    assert 2 <= log.check("/v1/chat/completions") <= 5


def cline(server, name, prompt):
    work, home = fresh(name)
    state = ["--data-dir", home / "data"]
    start("cline", ["auth", "-p", "openai", "-k", KEY, "-m", MODEL, "-b", f"{server}/v1", *state], work, home)
    switches = ["-P", "openai", "-m", MODEL, "-c", work, "--retries", "1", "-t", str(TIMEOUT), "--json"]
    output = start("cline", [*switches, *state, prompt], work, home)
    lines = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    [result] = [line for line in lines if line["type"] == "run_result"]
    same(result["finishReason"], "completed")
    return work, result


@check(36, "Cline says what the model says")
def cline_hello():
    log = Log(SCRIPTED)
    _, result = cline(SCRIPTED, "cline", script([think("Hm."), say("Well met, traveller.")]))
    same(result["text"], "Well met, traveller.")
    log.check("/v1/chat/completions")


@check(36, "Cline runs a command and gives back its output")
def cline_tools():
    log = Log(SCRIPTED)
    prompt = script(
        [think("Write."), call("run_commands", commands=["echo whale > note.txt; cat note.txt"])],
        [think("Done."), say("The note says whale.")],
    )
    work, result = cline(SCRIPTED, "cline-tools", prompt)
    same((result["text"], result["iterations"]), ("The note says whale.", 2))
    same((work / "note.txt").read_text(), "whale\n")
    usage = result["usage"]
    assert usage["cacheReadTokens"] > 0.45 * usage["inputTokens"], usage
    same(log.check("/v1/chat/completions"), 2)


run({
    27: f"Claude Code {version('@anthropic-ai/claude-code')}",
    28: f"Codex {version('@openai/codex')}",
    29: f"opencode {version('opencode-ai')}",
    36: f"Cline {version('cline')}",
})
