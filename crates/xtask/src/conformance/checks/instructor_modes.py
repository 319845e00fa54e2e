"""Instructor: every mode in which it asks for an object."""

from importlib.metadata import version
from typing import Literal

import instructor
import openai
from pydantic import BaseModel, Field

from check import CALF, KEY, MODEL, SCRIPTED, SUM, WEATHER_CALL, call, check, run, same, say, script, think

JSON = '{"city": "Łódź", "days": 3}'
SCRIPTS = {
    "TOOLS": script([think("Call."), call("Weather", **WEATHER_CALL)]),
    "JSON": script([think("As JSON."), say(JSON)]),
    "JSON_SCHEMA": script([think("As JSON."), say(JSON)]),
    "MD_JSON": script([think("As JSON."), say(f"```json\n{JSON}\n```")]),
}


class Weather(BaseModel):
    city: Literal["Łódź", "Nîmes", "São Tomé"]
    days: int = Field(ge=1, le=14)


def ask(server, mode, text):
    client = openai.OpenAI(base_url=f"{server}/v1", api_key=KEY, max_retries=0, timeout=60)
    wrapped = instructor.from_openai(client, mode=instructor.Mode[mode])
    messages = [{"role": "user", "content": text}]
    return wrapped.chat.completions.create(
        model=MODEL, messages=messages, response_model=Weather, max_retries=0, max_tokens=400
    )


def checks_of(mode):
    @check(25, f"{mode}, a willing model")
    def willing():
        same(ask(SCRIPTED, mode, SCRIPTS[mode]).model_dump(), WEATHER_CALL)

    if mode in ("TOOLS", "JSON_SCHEMA"):
        # The other modes ask for the schema in words only; nothing holds a model to it.
        @check(25, f"{mode}, whatever the model wants")
        def unwilling():
            assert isinstance(ask(CALF, mode, SUM), Weather)


for mode in SCRIPTS:
    checks_of(mode)

run(f"instructor {version('instructor')}")
