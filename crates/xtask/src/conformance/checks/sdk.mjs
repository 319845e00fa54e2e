// The libraries of OpenAI and Anthropic for Node.

import { createRequire } from "node:module";
import { join } from "node:path";

import {
  CALF, KEY, MODEL, NODE, SCRIPTED, SUM, SUM_ANSWER, WEATHER, WEATHER_CALL, assert, call, check, run, same, say, script,
  think, version,
} from "./check.mjs";

const require = createRequire(join(NODE, "package.json"));
const { default: OpenAI } = await import(require.resolve("openai"));
const { default: Anthropic } = await import(require.resolve("@anthropic-ai/sdk"));

const openai = (server) => new OpenAI({ baseURL: `${server}/v1`, apiKey: KEY, maxRetries: 0 });
const anthropic = (server) => new Anthropic({ baseURL: server, apiKey: KEY, maxRetries: 0 });
const user = (text) => [{ role: "user", content: text }];

check(9, "openai: usage on the last chunk and in one of its own", async () => {
  for (const stream_options of [undefined, { include_usage: true }]) {
    const chunks = [];
    const request = { model: MODEL, messages: user(SUM), temperature: 0, stream: true, stream_options };
    for await (const chunk of await openai(CALF).chat.completions.create(request)) chunks.push(chunk);
    const { usage } = chunks.at(-1);
    same(usage.prompt_tokens + usage.completion_tokens, usage.total_tokens);
    same(chunks.filter((chunk) => chunk.usage).length, 1);
    same(chunks.map((chunk) => chunk.choices[0]?.delta.content ?? "").join(""), SUM_ANSWER);
  }
});

check(14, "openai: responses, stream helper", async () => {
  const stream = openai(CALF).responses.stream({ model: MODEL, input: SUM, temperature: 0 });
  const events = [];
  for await (const event of stream) events.push(event);
  same((await stream.finalResponse()).output_text, SUM_ANSWER);
  same(events.at(-1).type, "response.completed");
  same(events.map((event) => event.sequence_number), [...events.keys()]);
});

check(14, "openai: responses, a call and its answer", async () => {
  const tools = [{ type: "function", name: "weather", description: "Forecast", parameters: WEATHER, strict: false }];
  const input = user(script([think("Call."), call("weather", WEATHER_CALL)], [say("It rains.")]));
  const first = await openai(SCRIPTED).responses.create({ model: MODEL, input, tools });
  const called = first.output.find((item) => item.type === "function_call");
  same(JSON.parse(called.arguments), WEATHER_CALL);
  input.push(...first.output, { type: "function_call_output", call_id: called.call_id, output: "rain" });
  const second = await openai(SCRIPTED).responses.create({ model: MODEL, input, tools });
  same(second.output_text, "It rains.");
});

check(19, "anthropic: stream helper with a tool", async () => {
  const stream = anthropic(SCRIPTED).messages.stream({
    model: "claude-x", max_tokens: 500, thinking: { type: "adaptive" },
    messages: user(script([think("Look."), say("One moment."), call("weather", WEATHER_CALL)])),
    tools: [{ name: "weather", description: "Forecast", input_schema: WEATHER }],
  });
  let start;
  stream.on("streamEvent", (event) => {
    if (event.type === "message_start") start = structuredClone(event.message.usage);
  });
  const message = await stream.finalMessage();
  same(message.content.map((block) => block.type), ["thinking", "text", "tool_use"]);
  same(message.content[2].input, WEATHER_CALL);
  same(message.stop_reason, "tool_use");
  assert(start.input_tokens + start.cache_read_input_tokens > 0);
});

check(21, "anthropic: tokens are counted as they are used", async () => {
  const request = { model: "claude-x", messages: user(SUM), system: "Be brief." };
  const { input_tokens } = await anthropic(CALF).messages.countTokens(request);
  const { usage } = await anthropic(CALF).messages.create({ ...request, max_tokens: 5 });
  same(usage.input_tokens + usage.cache_read_input_tokens, input_tokens);
});

await run(`node: openai ${version("openai")}, @anthropic-ai/sdk ${version("@anthropic-ai/sdk")}`);
