"""OpenAI's Python library: chat, completions, responses."""

import json
import math
import threading
import time
from importlib.metadata import version

import httpx
import openai
from pydantic import BaseModel

from check import (
    CALF, CHAT_TOOL, KEY, MODEL, SCRIPTED, SMALL, SUM, SUM_ANSWER, WEATHER, WEATHER_CALL, NotRun, call, check,
    check_chat_usage, raises, run, same, say, script, think,
)
from proxy import CutBefore


def client(server, **options):
    return openai.OpenAI(base_url=f"{server}/v1", api_key=KEY, max_retries=0, timeout=60, **options)


calf, scripted = client(CALF), client(SCRIPTED)
OFF = {"thinking": {"type": "disabled"}}
FLAT_TOOL = {"type": "function", "name": "weather", "description": "Forecast", "parameters": WEATHER, "strict": False}


def user(text):
    return [{"role": "user", "content": text}]


@check(7, "chat with reasoning, whole")
def chat_whole():
    answer = calf.chat.completions.create(model=MODEL, messages=user(SUM), temperature=0)
    message = answer.choices[0].message
    same(message.content, SUM_ANSWER)
    assert message.reasoning_content.strip(), "there is reasoning"
    same(answer.choices[0].finish_reason, "stop")
    check_chat_usage(answer.usage.model_dump())
    assert 0 < answer.usage.completion_tokens_details.reasoning_tokens < answer.usage.completion_tokens


@check(7, "chat with reasoning, streamed")
def chat_streamed():
    whole = calf.chat.completions.create(model=MODEL, messages=user(SUM), temperature=0).choices[0].message
    reasoning = content = ""
    for chunk in calf.chat.completions.create(model=MODEL, messages=user(SUM), temperature=0, stream=True):
        delta = chunk.choices[0].delta
        reasoning += getattr(delta, "reasoning_content", None) or ""
        content += delta.content or ""
    same((reasoning, content), (whole.reasoning_content, whole.content))


@check(7, "thinking turned off")
def chat_without_reasoning():
    answer = calf.chat.completions.create(model=MODEL, messages=user(SUM), temperature=0, extra_body=OFF)
    same(answer.choices[0].message.content, SUM_ANSWER)
    assert not getattr(answer.choices[0].message, "reasoning_content", None)
    answer = calf.chat.completions.create(model="deepseek-chat", messages=user(SUM), temperature=0)
    same(answer.usage.completion_tokens_details.reasoning_tokens, 0)


@check(8, "blank lines before the JSON of a long answer")
def blank_lines():
    prompt = user(script([{"token_ms": 31_000}, say("at last")]))
    raw = scripted.chat.completions.with_raw_response.create(model=MODEL, messages=prompt, max_tokens=1, extra_body=OFF)
    assert raw.http_response.text.startswith("\n"), raw.http_response.text
    answer = raw.parse()
    same(answer.choices[0].finish_reason, "length")
    assert answer.choices[0].message.content


def usage_chunks(**options):
    chunks = list(calf.chat.completions.create(model=MODEL, messages=user(SUM), stream=True, **options))
    return chunks, [chunk for chunk in chunks if chunk.usage]


@check(9, "usage on the last chunk")
def usage_on_last_chunk():
    chunks, with_usage = usage_chunks()
    same(with_usage, [chunks[-1]])
    same(chunks[-1].choices[0].finish_reason, "stop")
    check_chat_usage(chunks[-1].usage.model_dump())


@check(9, "usage in a chunk of its own")
def usage_in_its_own_chunk():
    chunks, with_usage = usage_chunks(stream_options={"include_usage": True})
    same(with_usage, [chunks[-1]])
    same(chunks[-1].choices, [])
    check_chat_usage(chunks[-1].usage.model_dump())


@check(10, "error in the middle of a stream")
def error_in_stream():
    prompt = script([say("so far"), {"fail": "the model broke"}])
    seen = []

    def read():
        for chunk in scripted.chat.completions.create(model=MODEL, messages=user(prompt), stream=True):
            seen.append(chunk.choices[0].delta.content or "")

    error = raises(openai.APIError, read)
    assert "the model broke" in str(error), error
    same("".join(seen), "so far")


@check(11, "stream helper gathers tool calls")
def stream_helper():
    prompt = script([think("Two."), call("weather", **WEATHER_CALL), call("weather", city="Nîmes", days=1)])
    options = dict(model=MODEL, messages=user(prompt), tools=[CHAT_TOOL])
    with scripted.chat.completions.stream(**options) as stream:
        done = [event.arguments for event in stream if event.type == "tool_calls.function.arguments.done"]
        choice = stream.get_final_completion().choices[0]
    same([json.loads(arguments) for arguments in done], [WEATHER_CALL, {"city": "Nîmes", "days": 1}])
    same(choice.finish_reason, "tool_calls")
    whole = scripted.chat.completions.create(**options).choices[0].message.tool_calls
    arguments = [c.function.arguments for c in choice.message.tool_calls]
    same(arguments, [c.function.arguments for c in whole])
    assert len({c.id for c in whole}) == 2


@check(11, "a tool's result is answered")
def tool_loop():
    messages = user(script([think("Ask."), call("weather", **WEATHER_CALL)], [say("It rains.")]))
    message = scripted.chat.completions.create(model=MODEL, messages=messages, tools=[CHAT_TOOL]).choices[0].message
    result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "rain"}
    messages += [message.model_dump(exclude_none=True), result]
    answer = scripted.chat.completions.create(model=MODEL, messages=messages, tools=[CHAT_TOOL])
    same(answer.choices[0].message.content, "It rains.")
    first_tokens = answer.usage.prompt_tokens_details.cached_tokens
    assert first_tokens > answer.usage.prompt_tokens / 2, f"only {first_tokens} of the prompt were cached"


class Sum(BaseModel):
    result: int


@check(12, "parse into a schema")
def parse():
    answer = calf.chat.completions.parse(
        model=MODEL, messages=user(SUM), response_format=Sum, temperature=0, max_tokens=200, extra_body=OFF
    )
    assert isinstance(answer.choices[0].message.parsed, Sum), answer


@check(12, "parse into a schema, after thinking")
def parse_thinking():
    answer = calf.chat.completions.parse(
        model=MODEL, messages=user(SUM), response_format=Sum, temperature=0, max_tokens=400
    )
    assert isinstance(answer.choices[0].message.parsed, Sum), answer
    assert answer.choices[0].message.reasoning_content


@check(12, "a required call, and a named one")
def required_call():
    for choice in ["required", {"type": "function", "function": {"name": "weather"}}]:
        for extra in [OFF, {}]:
            answer = calf.chat.completions.create(
                model=MODEL, messages=user(SUM), tools=[CHAT_TOOL], tool_choice=choice, max_tokens=400,
                temperature=0, extra_body=extra,
            ).choices[0]
            same(answer.finish_reason, "tool_calls")
            same(answer.message.tool_calls[0].function.name, "weather")
            json.loads(answer.message.tool_calls[0].function.arguments)


@check(13, "completion of text")
def completion():
    prompt = script([say("one two three")])
    options = dict(model=MODEL, prompt=prompt, max_tokens=50)
    same(scripted.completions.create(**options).choices[0].text, "one two three")
    chunks = scripted.completions.create(**options, stream=True)
    same("".join(chunk.choices[0].text for chunk in chunks), "one two three")


@check(13, "completion with a suffix")
def completion_with_suffix():
    options = dict(model=MODEL, prompt="a = 1\n", suffix="\nc = 3", max_tokens=20, temperature=0)
    try:
        answer = calf.completions.create(**options)
    except openai.BadRequestError as refused:
        assert "fim" in str(refused).lower(), refused
        raise NotRun("the toy has no tokens to fill in the middle, and the server says so") from refused
    assert answer.choices[0].text
    streamed = "".join(chunk.choices[0].text for chunk in calf.completions.create(**options, stream=True))
    same(streamed, answer.choices[0].text)


@check(13, "models")
def models():
    ids = [model.id for model in calf.models.list()]
    same(len(ids), 1)
    same(calf.models.retrieve(ids[0]).id, ids[0])
    raises(openai.NotFoundError, lambda: calf.models.retrieve("no-such-model"))


@check(14, "responses, whole")
def responses_whole():
    answer = calf.responses.create(model=MODEL, input=SUM, temperature=0)
    same(answer.output_text, SUM_ANSWER)
    same([item.type for item in answer.output], ["reasoning", "message"])
    same((answer.status, answer.usage.input_tokens + answer.usage.output_tokens), ("completed", answer.usage.total_tokens))


@check(14, "responses, stream helper")
def responses_streamed():
    with calf.responses.stream(model=MODEL, input=SUM, temperature=0) as stream:
        events = list(stream)
        final = stream.get_final_response()
    same(final.output_text, SUM_ANSWER)
    same([event.sequence_number for event in events], list(range(len(events))))
    same(events[-1].type, "response.completed")
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    same(text, SUM_ANSWER)


@check(14, "responses, calls over several turns with replayed reasoning")
def responses_loop():
    prompt = script(
        [think("First."), call("weather", **WEATHER_CALL)],
        [think("Again."), say("Once more."), call("weather", city="Nîmes", days=1)],
        [think("Enough."), say("Rain, then sun.")],
    )
    items, n_calls = [{"role": "user", "content": prompt}], 0
    for _ in range(5):
        options = dict(model=MODEL, input=items, tools=[FLAT_TOOL], include=["reasoning.encrypted_content"], store=False)
        with scripted.responses.stream(**options) as stream:
            answer = [event for event in stream][-1].response
        items += [item.model_dump(exclude_none=True) for item in answer.output]
        calls = [item for item in answer.output if item.type == "function_call"]
        if not calls:
            break
        n_calls += len(calls)
        items += [{"type": "function_call_output", "call_id": c.call_id, "output": "wet"} for c in calls]
    same((n_calls, answer.output_text), (2, "Rain, then sun."))
    cached = answer.usage.input_tokens_details.cached_tokens
    assert cached > answer.usage.input_tokens / 2, f"only {cached} of {answer.usage.input_tokens} were cached"


@check(15, "a stream cut before its end is an error")
def cut_stream():
    prompt = script([say("one two three")])

    def read(server):
        with client(server).responses.stream(model=MODEL, input=prompt) as events:
            list(events)
            return events.get_final_response()

    same(read(SCRIPTED).output_text, "one two three")
    with CutBefore(SCRIPTED, "event: response.completed") as server:
        error = raises(RuntimeError, lambda: read(server))
    assert "response.completed" in str(error), error


@check(16, "what a refused request is told")
def refused():
    error = raises(openai.BadRequestError, lambda: calf.chat.completions.create(model=MODEL, messages=[]))
    same((error.code, error.param), ("invalid_request_error", "messages"))
    bad = [{"role": "user", "content": 3}]
    error = raises(openai.BadRequestError, lambda: calf.chat.completions.create(model=MODEL, messages=bad))
    same(error.param, "messages[0].content")
    error = raises(openai.BadRequestError, lambda: calf.chat.completions.create(model="none", messages=user(SUM)))
    same(error.param, "model")
    long = "word " * 140_000
    error = raises(openai.BadRequestError, lambda: calf.chat.completions.create(model=MODEL, messages=user(long)))
    same(error.code, "context_length_exceeded")


@check(17, "one retry when the queue is full")
def retry():
    sent = []
    http = httpx.Client(event_hooks={"response": [lambda answer: sent.append((answer.status_code, time.monotonic()))]})
    retrying = openai.OpenAI(base_url=f"{SMALL}/v1", api_key=KEY, max_retries=1, timeout=60, http_client=http)
    occupied = script([{"token_ms": 50}, say("word " * 60)])
    stream = client(SMALL).chat.completions.create(model=MODEL, messages=user(occupied), stream=True)
    next(iter(stream))
    threading.Thread(target=lambda: list(stream), daemon=True).start()
    answer = retrying.chat.completions.create(model=MODEL, messages=user(script([say("at last")])))
    same(answer.choices[0].message.content, "at last")
    same([status for status, _ in sent], [429, 200])
    waited = sent[1][1] - sent[0][1]
    assert waited > 4, f"came again after {waited:.1f} s, before `retry-after`"


@check(34, "a seed repeats, choices differ")
def seeds():
    prompt = script([{"hostile": 12}])

    def draw(seed):
        answer = scripted.chat.completions.create(model=MODEL, messages=user(prompt), seed=seed, n=2, extra_body=OFF)
        same([choice.index for choice in answer.choices], [0, 1])
        return [choice.message.content for choice in answer.choices]

    first = draw(1)
    same(draw(1), first)
    assert first[0] != first[1], first
    assert draw(2)[0] != first[0]


@check(34, "log-probabilities")
def logprobs():
    options = dict(
        model=MODEL, messages=user(SUM), temperature=0, logprobs=True, top_logprobs=20, extra_body=OFF
    )
    choice = calf.chat.completions.create(**options).choices[0]
    entries = choice.logprobs.content
    same(bytes(byte for entry in entries for byte in entry.bytes).decode(), choice.message.content)
    for entry in entries:
        share = sum(math.exp(top.logprob) for top in entry.top_logprobs)
        assert 0.5 < share <= 1.001, share
        same(entry.top_logprobs[0].token, entry.token)
    streamed = []
    for chunk in calf.chat.completions.create(**options, stream=True):
        if chunk.choices and chunk.choices[0].logprobs:
            streamed += chunk.choices[0].logprobs.content
    same([(entry.token, entry.logprob) for entry in streamed], [(entry.token, entry.logprob) for entry in entries])


run(f"openai-py {version('openai')}")
