// What all checks in JavaScript share; check.py says the rest.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";

export const { CUVIER_CALF: CALF, CUVIER_SCRIPTED: SCRIPTED, CUVIER_NODE: NODE } = process.env;
export const KEY = "dummy";
export const MODEL = "deepseek-v4-flash";
export const SUM = "What is 27 + 58?";
export const SUM_ANSWER = "27 + 58 = 85.";
export const WEATHER = {
  type: "object",
  properties: {
    city: { type: "string", enum: ["Łódź", "Nîmes", "São Tomé"] },
    days: { type: "integer", minimum: 1, maximum: 14 },
  },
  required: ["city", "days"],
  additionalProperties: false,
};
export const WEATHER_CALL = { city: "Łódź", days: 3 };

const checks = [];

export function check(number, name, body) {
  checks.push({ number, name, body });
}

export async function run(client) {
  const only = (process.argv[2] ?? "").toLowerCase();
  for (const { number, name, body } of checks) {
    if (!`${number} ${name} ${client}`.toLowerCase().includes(only)) continue;
    let result = "passed";
    let reason = "";
    try {
      await body();
    } catch (error) {
      const where = /checks\/[\w.]+:\d+/.exec(error.stack ?? "")?.[0] ?? "";
      reason = `${error.name}: ${String(error.message).replace(/\s+/g, " ").slice(0, 300)} (${where})`;
      result = "failed";
    }
    console.log(JSON.stringify({ check: number, name, client, result, reason }));
  }
}

/** The version of an installed package. */
export function version(name) {
  return JSON.parse(readFileSync(join(NODE, "node_modules", name, "package.json"), "utf8")).version;
}

export const script = (...answers) => `SCRIPT:${JSON.stringify(answers)}`;
export const think = (text) => ({ think: text });
export const say = (text) => ({ say: text });
export const call = (tool, args) => ({ call: tool, arguments: args });
export const same = (got, want) => assert.deepEqual(got, want);
export { assert };
