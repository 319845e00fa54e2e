"""What all checks in Python share: a check is a function with a number and a name; each gives one line of JSON.

CALF is a server with the embedded toy, SCRIPTED one whose model says what `script(...)` in its prompt tells it to
(crates/server/tests/scripted), SMALL the same with room for one request at a time.
"""

import json
import os
import sys
import traceback

CALF = os.environ["CUVIER_CALF"]
SCRIPTED = os.environ["CUVIER_SCRIPTED"]
SMALL = os.environ["CUVIER_SMALL"]
KEY = "dummy"
# An id of the hosted service: whichever model is loaded answers to it.
MODEL = "deepseek-v4-flash"

SUM = "What is 27 + 58?"
SUM_ANSWER = "27 + 58 = 85."

_checks = []


class NotRun(Exception):
    """Why a check could not be run here."""


def check(number, name):
    def keep(function):
        _checks.append((number, name, function))
        return function

    return keep


def run(clients):
    """Runs the checks of a file; `clients` is what they check with: one for all, or one for each number."""
    only = sys.argv[1] if len(sys.argv) > 1 else ""
    for number, name, function in _checks:
        client = clients[number] if isinstance(clients, dict) else clients
        if only and only.lower() not in f"{number} {name} {client}".lower():
            continue
        result, reason = "passed", ""
        try:
            function()
        except NotRun as why:
            result, reason = "not run", str(why)
        except BaseException as error:
            result, reason = "failed", explain(error)
        line = {"check": number, "name": name, "client": client, "result": result, "reason": reason}
        print(json.dumps(line), flush=True)


def explain(error):
    """One line: what, and where in the checks."""
    here = [frame for frame in traceback.extract_tb(error.__traceback__) if "conformance" in frame.filename]
    where = f" ({os.path.basename(here[-1].filename)}:{here[-1].lineno} {here[-1].line})" if here else ""
    said = " ".join(str(error).split())[:300]
    return f"{type(error).__name__}: {said}{where}"


def same(got, want):
    if got != want:
        raise AssertionError(f"got {got!r}, want {want!r}")


def raises(kind, function):
    """The exception of that kind that `function` must raise."""
    try:
        value = function()
    except kind as error:
        return error
    raise AssertionError(f"no {kind.__name__}, but {value!r}")


def script(*answers):
    """A prompt that makes the scripted model give these answers, one for each of its turns."""
    return "SCRIPT:" + json.dumps([list(answer) for answer in answers], ensure_ascii=False)


def think(text):
    return {"think": text}


def say(text):
    return {"say": text}


def call(tool, **arguments):
    return {"call": tool, "arguments": arguments}


# No free text: the toy, held to a schema that it does not understand, would write it to the end of its tokens.
CITIES = ["Łódź", "Nîmes", "São Tomé"]
WEATHER = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "enum": CITIES},
        "days": {"type": "integer", "minimum": 1, "maximum": 14},
    },
    "required": ["city", "days"],
    "additionalProperties": False,
}
WEATHER_CALL = {"city": "Łódź", "days": 3}
CHAT_TOOL = {"type": "function", "function": {"name": "weather", "description": "Forecast", "parameters": WEATHER}}


def check_chat_usage(usage):
    same(usage["prompt_tokens"] + usage["completion_tokens"], usage["total_tokens"])
    same(usage["prompt_cache_hit_tokens"] + usage["prompt_cache_miss_tokens"], usage["prompt_tokens"])
    assert usage["prompt_tokens"] > 0 and usage["completion_tokens"] > 0, usage
