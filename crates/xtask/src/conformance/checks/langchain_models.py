"""LangChain: its DeepSeek, OpenAI and Anthropic models."""

from importlib.metadata import version
from typing import Literal

from langchain_anthropic import ChatAnthropic
from langchain_deepseek import ChatDeepSeek
from langchain_openai import ChatOpenAI
from pydantic import BaseModel, Field

from check import CALF, KEY, MODEL, SCRIPTED, SUM, SUM_ANSWER, WEATHER_CALL, call, check, run, same, say, script, think


class Weather(BaseModel):
    """Forecast"""

    city: Literal["Łódź", "Nîmes", "São Tomé"]
    days: int = Field(ge=1, le=14)


def deepseek(server, **options):
    return ChatDeepSeek(model=MODEL, api_base=f"{server}/v1", api_key=KEY, max_retries=0, max_tokens=400, **options)


def openai(server, **options):
    return ChatOpenAI(model=MODEL, base_url=f"{server}/v1", api_key=KEY, max_retries=0, max_tokens=400, **options)


def anthropic(server, **options):
    return ChatAnthropic(model="claude-x", base_url=server, api_key=KEY, max_retries=0, max_tokens=400, **options)


def spoken(message):
    if isinstance(message.content, str):
        return message.content
    return "".join(part["text"] for part in message.content if part.get("type") == "text")


@check(23, "ChatDeepSeek invoke and stream")
def deepseek_plain():
    model = deepseek(CALF, temperature=0)
    whole = model.invoke(SUM)
    same(whole.content, SUM_ANSWER)
    assert whole.additional_kwargs["reasoning_content"].strip()
    same(whole.usage_metadata["total_tokens"], whole.usage_metadata["input_tokens"] + whole.usage_metadata["output_tokens"])
    chunks = list(model.stream(SUM))
    same("".join(chunk.content for chunk in chunks), SUM_ANSWER)
    thoughts = "".join(chunk.additional_kwargs.get("reasoning_content", "") for chunk in chunks)
    same(thoughts, whole.additional_kwargs["reasoning_content"])


@check(23, "ChatDeepSeek tools")
def deepseek_tools():
    prompt = script([think("Call."), call("Weather", **WEATHER_CALL)])
    message = deepseek(SCRIPTED).bind_tools([Weather]).invoke(prompt)
    same([(c["name"], c["args"]) for c in message.tool_calls], [("Weather", WEATHER_CALL)])
    gathered = None
    for chunk in deepseek(SCRIPTED).bind_tools([Weather]).stream(prompt):
        gathered = chunk if gathered is None else gathered + chunk
    same([(c["name"], c["args"]) for c in gathered.tool_calls], [("Weather", WEATHER_CALL)])


@check(23, "ChatDeepSeek structured by a named call, with thinking")
def deepseek_function():
    prompt = script([think("Call."), call("Weather", **WEATHER_CALL)])
    same(deepseek(SCRIPTED).with_structured_output(Weather).invoke(prompt), Weather(**WEATHER_CALL))


@check(23, "ChatDeepSeek structured by a named call, whatever the model wants")
def deepseek_function_forced():
    assert isinstance(deepseek(CALF, temperature=0).with_structured_output(Weather).invoke(SUM), Weather)


@check(23, "ChatDeepSeek structured by JSON mode")
def deepseek_json():
    prompt = script([think("As JSON."), say('{"city": "Łódź", "days": 3}')])
    same(deepseek(SCRIPTED).with_structured_output(Weather, method="json_mode").invoke(prompt), Weather(**WEATHER_CALL))


@check(24, "ChatOpenAI structured by schema")
def openai_schema():
    model = openai(CALF, temperature=0).with_structured_output(Weather, method="json_schema", strict=True)
    assert isinstance(model.invoke(SUM), Weather)


@check(24, "ChatOpenAI, any tool")
def openai_any():
    message = openai(CALF, temperature=0).bind_tools([Weather], tool_choice="any").invoke(SUM)
    same([c["name"] for c in message.tool_calls], ["Weather"])


@check(24, "ChatOpenAI over responses")
def openai_responses():
    model = openai(CALF, temperature=0, use_responses_api=True)
    same(spoken(model.invoke(SUM)), SUM_ANSWER)
    same("".join(spoken(chunk) for chunk in model.stream(SUM)), SUM_ANSWER)
    prompt = script([think("Call."), call("Weather", **WEATHER_CALL)])
    message = openai(SCRIPTED, use_responses_api=True).bind_tools([Weather]).invoke(prompt)
    same([(c["name"], c["args"]) for c in message.tool_calls], [("Weather", WEATHER_CALL)])


@check(24, "ChatAnthropic")
def anthropic_plain():
    model = anthropic(SCRIPTED)
    prompt = script([think("Hm."), say("Well met.")])
    same(spoken(model.invoke(prompt)), "Well met.")
    same("".join(spoken(chunk) for chunk in model.stream(prompt)), "Well met.")
    called = script([think("Call."), call("Weather", **WEATHER_CALL)])
    message = model.bind_tools([Weather]).invoke(called)
    same([(c["name"], c["args"]) for c in message.tool_calls], [("Weather", WEATHER_CALL)])


@check(24, "ChatAnthropic structured")
def anthropic_structured():
    assert isinstance(anthropic(CALF).with_structured_output(Weather).invoke(SUM), Weather)


run(f"langchain-openai {version('langchain-openai')}, -deepseek {version('langchain-deepseek')}, "
    f"-anthropic {version('langchain-anthropic')}")
