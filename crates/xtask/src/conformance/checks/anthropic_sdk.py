"""Anthropic's Python library: messages."""

from importlib.metadata import version

import anthropic

from check import CALF, KEY, MODEL, SCRIPTED, SUM, SUM_ANSWER, WEATHER, WEATHER_CALL, call, check, raises, run, same, say
from check import script, think


def client(server):
    return anthropic.Anthropic(base_url=server, api_key=KEY, max_retries=0, timeout=60)


calf, scripted = client(CALF), client(SCRIPTED)
TOOL = {"name": "weather", "description": "Forecast", "input_schema": WEATHER}


def user(text):
    return [{"role": "user", "content": text}]


def thinking(effort="high"):
    return {"thinking": {"type": "adaptive"}, "output_config": {"effort": effort}}


@check(18, "messages with adaptive thinking, whole")
def whole():
    answer = calf.messages.create(model="claude-sonnet", max_tokens=400, messages=user(SUM), **thinking())
    same([block.type for block in answer.content], ["thinking", "text"])
    assert answer.content[0].thinking.strip() and answer.content[0].signature
    assert "85" in answer.content[1].text, answer.content[1].text
    same((answer.stop_reason, answer.stop_sequence), ("end_turn", None))
    assert answer.usage.input_tokens + answer.usage.cache_read_input_tokens > 0
    assert answer.usage.output_tokens > 1


@check(18, "messages without thinking")
def without_thinking():
    answer = calf.messages.create(
        model="claude-sonnet", max_tokens=100, messages=user(SUM), thinking={"type": "disabled"},
        extra_body={"temperature": 0},
    )
    same([block.type for block in answer.content], ["text"])
    same(answer.content[0].text, SUM_ANSWER)


@check(19, "stream helper")
def stream_helper():
    prompt = script([think("Why not."), say("Hello there.")])
    with scripted.messages.stream(model="claude-x", max_tokens=200, messages=user(prompt), **thinking()) as stream:
        events = list(stream)
        final = stream.get_final_message()
    kinds = [event.type for event in events]
    same((kinds[0], kinds[-1]), ("message_start", "message_stop"))
    start = events[0].message.usage
    assert start.input_tokens + start.cache_read_input_tokens > 0, "the prompt's size is known at the start"
    same([block.type for block in final.content], ["thinking", "text"])
    same((final.content[0].thinking, final.content[1].text), ("Why not.", "Hello there."))
    assert final.content[0].signature
    text = "".join(event.text for event in events if event.type == "text")
    same(text, "Hello there.")


@check(19, "stream helper with a tool")
def stream_tool():
    prompt = script([think("Look."), say("One moment."), call("weather", **WEATHER_CALL)], [say("It rains.")])
    messages = user(prompt)
    options = dict(model="claude-x", max_tokens=500, tools=[TOOL], **thinking())
    with scripted.messages.stream(messages=messages, **options) as stream:
        order = [event.content_block.type for event in stream if event.type == "content_block_stop"]
        final = stream.get_final_message()
    same(order, ["thinking", "text", "tool_use"])
    same((final.stop_reason, final.content[2].input), ("tool_use", WEATHER_CALL))
    result = {"type": "tool_result", "tool_use_id": final.content[2].id, "content": [{"type": "text", "text": "rain"}]}
    messages += [
        {"role": "assistant", "content": [block.model_dump(exclude_none=True) for block in final.content]},
        {"role": "user", "content": [result]},
    ]
    answer = scripted.messages.create(messages=messages, **options)
    same([block.text for block in answer.content if block.type == "text"], ["It rains."])
    used = answer.usage
    assert used.cache_read_input_tokens > used.input_tokens, used


@check(20, "error in the middle of a stream")
def error_in_stream():
    prompt = script([say("so far"), {"fail": "the model broke"}])

    def read():
        with scripted.messages.stream(model="claude-x", max_tokens=200, messages=user(prompt)) as stream:
            return list(stream)

    error = raises(anthropic.APIStatusError, read)
    assert "the model broke" in str(error), error


@check(20, "a prompt longer than the context")
def overflow():
    long = user("word " * 140_000)
    create = lambda: calf.messages.create(model="claude-x", max_tokens=10, messages=long)
    error = raises(anthropic.BadRequestError, create)
    assert "prompt is too long" in str(error), error


@check(21, "tokens are counted as they are used")
def count_tokens():
    options = dict(model="claude-x", messages=user(SUM), system="Be brief.", tools=[TOOL])
    counted = calf.messages.count_tokens(**options).input_tokens
    used = calf.messages.create(max_tokens=5, **options).usage
    same(used.input_tokens + used.cache_read_input_tokens, counted)


@check(19, "models")
def models():
    ids = [model.id for model in calf.models.list()]
    same(calf.models.retrieve(ids[0]).id, ids[0])


run(f"anthropic-py {version('anthropic')}")
