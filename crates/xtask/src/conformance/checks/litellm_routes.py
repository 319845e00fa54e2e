"""LiteLLM: its DeepSeek, OpenAI and Anthropic routes."""

import json
from importlib.metadata import version

import litellm

from check import CALF, CHAT_TOOL, KEY, MODEL, SCRIPTED, SUM, SUM_ANSWER, WEATHER_CALL, call, check, run, same, say, script, think

ROUTES = {"deepseek/deepseek-reasoner": "", f"openai/{MODEL}": "/v1", "anthropic/claude-x": ""}


def ask(route, server, text, **options):
    base = server + ROUTES[route]
    messages = [{"role": "user", "content": text}]
    return litellm.completion(
        model=route, api_base=base, api_key=KEY, messages=messages, timeout=60, num_retries=0, max_tokens=500, **options
    )


def checks_of(route):
    name = route.split("/")[0]

    @check(22, f"{name}/ content and reasoning")
    def content():
        answer = ask(route, CALF, SUM, **({} if name == "anthropic" else {"temperature": 0}))
        message = answer.choices[0].message
        assert "85" in message.content if name == "anthropic" else message.content == SUM_ANSWER, message
        assert message.reasoning_content.strip(), message
        same(answer.usage.prompt_tokens + answer.usage.completion_tokens, answer.usage.total_tokens)

    @check(22, f"{name}/ streamed")
    def streamed():
        text = reasoning = ""
        for chunk in ask(route, SCRIPTED, script([think("Hm."), say("Well met.")]), stream=True):
            delta = chunk.choices[0].delta
            text += delta.content or ""
            reasoning += getattr(delta, "reasoning_content", None) or ""
        same((reasoning, text), ("Hm.", "Well met."))

    @check(22, f"{name}/ tools")
    def tools():
        prompt = script([think("Call."), call("weather", **WEATHER_CALL)])
        answer = ask(route, SCRIPTED, prompt, tools=[CHAT_TOOL])
        same(answer.choices[0].finish_reason, "tool_calls")
        function = answer.choices[0].message.tool_calls[0].function
        same((function.name, json.loads(function.arguments)), ("weather", WEATHER_CALL))

    @check(22, f"{name}/ tools, streamed")
    def streamed_tools():
        prompt = script([think("Call."), call("weather", **WEATHER_CALL)])
        arguments = ""
        for chunk in ask(route, SCRIPTED, prompt, tools=[CHAT_TOOL], stream=True):
            for part in chunk.choices[0].delta.tool_calls or []:
                arguments += part.function.arguments or ""
        same(json.loads(arguments), WEATHER_CALL)


for route in ROUTES:
    checks_of(route)

run(f"litellm {version('litellm')}")
