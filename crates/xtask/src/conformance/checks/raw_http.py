"""httpx: what no library shows. Keep-alives, slots, the cache's accounts, captured requests, a crowd."""

import asyncio
import json
import os
import pathlib
import random
import re
import time
from importlib.metadata import version

import httpx

from check import CALF, CHAT_TOOL, CITIES, MODEL, SCRIPTED, SMALL, check, check_chat_usage, run, same, say, script, think

OFF = {"type": "disabled"}
ROOT = pathlib.Path(__file__).resolve().parents[5]


def chat(text, **options):
    return {"model": MODEL, "messages": [{"role": "user", "content": text}], **options}


def post(server, body, path="/v1/chat/completions"):
    return httpx.post(server + path, json=body, timeout=120)


def metric(server, name):
    text = httpx.get(f"{server}/metrics").text
    return float(re.search(rf"^cuvier_{name} (\S+)$", text, re.MULTILINE).group(1))


def wait_for(what, is_so, seconds):
    start = time.monotonic()
    while not is_so():
        assert time.monotonic() - start < seconds, f"{what}: not within {seconds} s"
        time.sleep(0.02)
    return time.monotonic() - start


def slow_prompt(path):
    """A prompt that is read for 40 s, over the protocol at `path`; the client leaves after 14 s."""
    # Nothing of it may be cached from an earlier run.
    text = f"{time.time_ns()} " + script([{"prefill_ms": 8000}, say("late")]) + " word" * 250
    body = chat(text, stream=True, max_tokens=100)
    left = metric(SCRIPTED, "requests_abandoned_total")
    start = time.monotonic()
    gaps, last = [], start
    with httpx.stream("POST", SCRIPTED + path, json=body, timeout=60) as answer:
        same(answer.status_code, 200)
        headers_after = time.monotonic() - start
        for _ in answer.iter_raw():
            now = time.monotonic()
            gaps.append(now - last)
            last = now
            if now - start > 14:
                break
    assert headers_after < 1, f"first byte after {headers_after:.2f} s"
    assert max(gaps) <= 6, f"silent for {max(gaps):.1f} s"
    assert len(gaps) >= 3, gaps
    wait_for("the free slot", lambda: metric(SCRIPTED, "requests_abandoned_total") == left + 1, 1)
    # The step under way, which here lasts 8 s, is let finish; nothing is computed for who left after it.
    post(SCRIPTED, chat("x", max_tokens=1))


@check(30, "slow prompt and a client that leaves, chat")
def slow_chat():
    slow_prompt("/v1/chat/completions")


@check(30, "slow prompt and a client that leaves, messages")
def slow_messages():
    slow_prompt("/v1/messages")


@check(30, "slow decoding of what is held back")
def slow_decoding():
    """Between tokens there may be minutes too; an open tool call shows nothing until its name is known."""
    body = chat(script([say("a"), {"token_ms": 7000}, say("b")]), stream=True, thinking=OFF)
    gaps, last = [], time.monotonic()
    with httpx.stream("POST", f"{SCRIPTED}/v1/chat/completions", json=body, timeout=60) as answer:
        for _ in answer.iter_raw():
            gaps.append(time.monotonic() - last)
            last = time.monotonic()
    assert max(gaps) <= 6, gaps


@check(30, "a client that leaves makes room")
def leaves_room():
    occupied = chat(script([{"token_ms": 50}, say("word " * 400)]), stream=True, thinking=OFF)
    with httpx.stream("POST", f"{SMALL}/v1/chat/completions", json=occupied, timeout=60) as answer:
        chunks = answer.iter_raw()
        next(chunks)
        same(post(SMALL, chat("x")).status_code, 429)
    freed = wait_for("room", lambda: post(SMALL, chat("x", max_tokens=2)).status_code == 200, 1)
    assert freed < 1


def cached(body):
    usage = post(CALF, body).json()["usage"]
    check_chat_usage(usage)
    return usage["prompt_tokens_details"]["cached_tokens"], usage["prompt_tokens"]


BASE = [
    {"role": "system", "content": "You keep facts. " + " ".join(f"Item {i} is {i * 7}." for i in range(150))},
    {"role": "user", "content": "What is item 3?"},
]


def ask(messages, **options):
    return {"model": MODEL, "messages": messages, "max_tokens": 8, "temperature": 0, "thinking": OFF, **options}


def fresh(mark):
    """The base under a first line that no other check has."""
    return [{**BASE[0], "content": f"{mark}\n{BASE[0]['content']}"}, BASE[1]]


@check(31, "cache: exact extension")
def cache_extension():
    messages = fresh("extension")
    message = post(CALF, ask(messages)).json()["choices"][0]["message"]
    hit, total = cached(ask(messages + [message, {"role": "user", "content": "And item 4?"}]))
    assert hit > 0.9 * (total - 20), f"{hit} of {total}"


@check(31, "cache: the same again")
def cache_repeat():
    messages = fresh("repeat")
    cached(ask(messages))
    hit, total = cached(ask(messages))
    assert hit > 0.9 * total, f"{hit} of {total}"


@check(31, "cache: divergent tail")
def cache_divergent_tail():
    messages = fresh("tail")
    cached(ask(messages))
    hit, total = cached(ask([messages[0], {"role": "user", "content": "Something else altogether?"}]))
    assert hit > 0.5 * total, f"{hit} of {total}"


@check(31, "cache: changed first line")
def cache_changed_start():
    cached(ask(fresh("one")))
    hit, _ = cached(ask(fresh("two")))
    assert hit <= 2, f"{hit} tokens before a first line that is new"


@check(31, "cache: changed effort")
def cache_changed_effort():
    messages = fresh("effort")
    cached(ask(messages))
    hit, total = cached({**ask(messages), "thinking": {"type": "enabled"}, "reasoning_effort": "max"})
    assert hit <= 2, f"{hit} of {total}, though effort stands at the front"


@check(31, "cache: added tools")
def cache_added_tools():
    messages = fresh("tools")
    cached(ask(messages))
    hit, total = cached(ask(messages, tools=[CHAT_TOOL]))
    assert hit < total, f"{hit} of {total}"


@check(32, "strict tool under a hostile model")
def strict_tool():
    strict = {"type": "function", "function": {**CHAT_TOOL["function"], "strict": True}}
    named = {"type": "function", "function": {"name": "weather"}}
    n_whole = 0
    for seed in range(10):
        prompt = script([think("No."), {"hostile": 400}]) + f" {seed}"
        answer = post(SCRIPTED, chat(prompt, tools=[strict], tool_choice=named, max_tokens=400)).json()["choices"][0]
        if answer["finish_reason"] == "length":
            continue
        n_whole += 1
        arguments = json.loads(answer["message"]["tool_calls"][0]["function"]["arguments"])
        same(set(arguments), {"city", "days"})
        assert arguments["city"] in CITIES and arguments["days"] in range(1, 15), arguments
    assert n_whole == 10, f"{n_whole} of 10 calls came to their end"


@check(33, "captured requests of coding agents")
def captured():
    files = sorted((ROOT / "crates/server/tests/captured").glob("*.json"))
    assert files, "there are captured requests"
    for file in files:
        request = json.loads(file.read_text())
        answer = post(SCRIPTED, request["body"], request["path"])
        same((file.name, answer.status_code), (file.name, 200))


@check(35, "32 streams at once, random leavers, nothing crossed")
def crowd():
    seconds = float(os.environ.get("CUVIER_SOAK", "30"))
    asyncio.run(soak(seconds))
    wait_for("every slot free", lambda: metric(SCRIPTED, "requests_in_flight") == 0, 5)


async def soak(seconds):
    counts = {"whole": 0, "left": 0}
    end = time.monotonic() + seconds
    limits = httpx.Limits(max_connections=64)
    async with httpx.AsyncClient(timeout=60, limits=limits) as http:
        await asyncio.gather(*(one_caller(http, number, end, counts) for number in range(32)))
    assert counts["whole"] > 32 and counts["left"] > 8, counts


async def one_caller(http, number, end, counts):
    chance, turn = random.Random(number), 0
    while time.monotonic() < end:
        turn += 1
        word = f"token-{number}-{turn}"
        prompt = script([{"token_ms": chance.choice([0, 0, 5])}, think(f"t {word}"), say(f"{word} " * 5)])
        path = chance.choice(["/v1/chat/completions", "/v1/messages", "/v1/responses"])
        body = {"model": MODEL, "max_tokens": 400, "stream": True}
        body["input" if path.endswith("responses") else "messages"] = [{"role": "user", "content": prompt}]
        leaves_after = chance.randrange(1, 30) if chance.random() < 0.3 else None
        text, n_lines = "", 0
        async with http.stream("POST", SCRIPTED + path, json=body) as answer:
            same(answer.status_code, 200)
            async for line in answer.aiter_lines():
                n_lines += 1
                text += spoken(line)
                if n_lines == leaves_after:
                    break
        if leaves_after is None or n_lines < leaves_after:
            same(text, f"{word} " * 5)
            counts["whole"] += 1
        else:
            assert f"{word} ".startswith(text[: len(word) + 1]), f"{text!r} in the stream of {word}"
            counts["left"] += 1


def spoken(line):
    """The content in one line of a stream of any protocol."""
    if not line.startswith("data: {"):
        return ""
    data = json.loads(line[6:])
    if data.get("type") == "content_block_delta":
        return data["delta"].get("text", "")
    if data.get("type") == "response.output_text.delta":
        return data["delta"]
    choices = data.get("choices") or [{}]
    return choices[0].get("delta", {}).get("content") or ""


run(f"httpx {version('httpx')}")
