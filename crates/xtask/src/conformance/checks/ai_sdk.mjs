// Vercel's AI SDK with both providers that speak chat.

import { createRequire } from "node:module";
import { join } from "node:path";

import {
  CALF, KEY, MODEL, NODE, SCRIPTED, SUM, SUM_ANSWER, WEATHER, WEATHER_CALL, assert, call, check, run, same, say, script,
  think, version,
} from "./check.mjs";

const require = createRequire(join(NODE, "package.json"));
const { generateObject, generateText, jsonSchema, stepCountIs, streamText, tool } = await import(require.resolve("ai"));
const { createOpenAICompatible } = await import(require.resolve("@ai-sdk/openai-compatible"));
const { createDeepSeek } = await import(require.resolve("@ai-sdk/deepseek"));

const providers = {
  "openai-compatible": (server) =>
    createOpenAICompatible({ name: "cuvier", baseURL: `${server}/v1`, apiKey: KEY, includeUsage: true })(MODEL),
  deepseek: (server) => createDeepSeek({ baseURL: `${server}/v1`, apiKey: KEY })(MODEL),
};

const weather = tool({
  description: "Forecast", inputSchema: jsonSchema(WEATHER), execute: async ({ city, days }) => `${city}: rain, ${days}`,
});

for (const [name, model] of Object.entries(providers)) {
  check(26, `${name}: streamText`, async () => {
    const result = streamText({ model: model(CALF), prompt: SUM, temperature: 0, maxRetries: 0 });
    same(await result.text, SUM_ANSWER);
    assert((await result.reasoningText).trim());
    same(await result.finishReason, "stop");
    const usage = await result.usage;
    same(usage.inputTokens + usage.outputTokens, usage.totalTokens);
    assert(usage.inputTokens > 0);
  });

  check(26, `${name}: a tool is called and its result answered`, async () => {
    const prompt = script([think("Call."), call("weather", WEATHER_CALL)], [think("Good."), say("It rains.")]);
    const options = { model: model(SCRIPTED), prompt, tools: { weather }, stopWhen: stepCountIs(3), maxRetries: 0 };
    for (const result of [await generateText(options), streamText(options)]) {
      same(await result.text, "It rains.");
      const steps = await result.steps;
      same(steps.length, 2);
      same(steps[0].toolCalls[0].input, WEATHER_CALL);
      same(steps[0].toolResults[0].output, "Łódź: rain, 3");
    }
  });

  check(26, `${name}: generateObject, a willing model`, async () => {
    const prompt = script([think("As JSON."), say(JSON.stringify(WEATHER_CALL))]);
    const { object } = await generateObject({ model: model(SCRIPTED), schema: jsonSchema(WEATHER), prompt, maxRetries: 0 });
    same(object, WEATHER_CALL);
  });
}

// The other provider writes the schema into the prompt, where nothing holds a model to it.
check(26, "openai-compatible: generateObject, whatever the model wants", async () => {
  const options = { name: "cuvier", baseURL: `${CALF}/v1`, apiKey: KEY, supportsStructuredOutputs: true };
  const request = { model: createOpenAICompatible(options)(MODEL), schema: jsonSchema(WEATHER), prompt: SUM };
  const { object } = await generateObject({ ...request, temperature: 0, maxRetries: 0, maxOutputTokens: 400 });
  same(Object.keys(object).sort(), ["city", "days"]);
});

const names = ["ai", "@ai-sdk/openai-compatible", "@ai-sdk/deepseek"];
await run(names.map((name) => `${name} ${version(name)}`).join(", "));
