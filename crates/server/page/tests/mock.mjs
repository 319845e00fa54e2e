// A server of the same protocol with scripted answers: what it says depends on the last message.
import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import { setTimeout as sleep } from "node:timers/promises";

const PAGE = new URL("../", import.meta.url);
const POLICY =
  "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; " +
  "base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
const MEDIA = { html: "text/html", css: "text/css", js: "text/javascript" };

export const PROSE = `## What the whale does

It goes **down**, and *comes back*. See [the record](https://example.org/record) or \`dive(2992)\`.

1. Breathe out
2. Dive
   - fold the ribs
   - slow the heart
3. Listen

> Most of the sea is dark.

| depth | light | pressure |
|:------|:-----:|---------:|
| 200 m | little | 21 bar |
| 2,992 m | none | 300 bar |

\`\`\`rust
/// Metres below the surface.
fn dive(depth: u32) -> Result<Prey, Drowned> {
    (0..depth).rev().find_map(listen).ok_or(Drowned)
}
\`\`\`

Done — 深海 🐋.
`;

const ATTACK = `<img src=x onerror="window.hacked=1"> <script>window.hacked=1</script>
[a](javascript:window.hacked=1) [b](data:text/html,<script>window.hacked=1</script>) [c](JaVaScRiPt:window.hacked=1)
![d](https://evil.example/pixel.png) <a href="javascript:window.hacked=1">e</a> [f]( javascript:window.hacked=1)

\`\`\`"><img src=x onerror=window.hacked=1>
</code></pre><img src=x onerror="window.hacked=1">
\`\`\`

| <img src=x onerror=window.hacked=1> | b |
|---|---|
| [g](vbscript:x) | <svg onload=window.hacked=1> |
`;

const THOUGHT =
  "The user wants a sum. 17 is 10 + 7 and 25 is 20 + 5. The tens are 30, the ones are 12, so there is a carry: " +
  "30 + 12 = 42. I check it from the other side: 42 - 25 = 17. Good.";

const tokensOf = (text) => text.match(/\s*\S{1,5}/gu) ?? [];
const content = (text) => tokensOf(text).map((piece) => ({ content: piece }));
const reasoning = (text) => tokensOf(text).map((piece) => ({ reasoning_content: piece }));

function call(index, name, argumentsText) {
  const pieces = argumentsText.match(/[^]{1,4}/g);
  return [
    { tool_calls: [{ index, id: `call_${index}a`, type: "function", function: { name, arguments: "" } }] },
    ...pieces.map((piece) => ({ tool_calls: [{ index, function: { arguments: piece } }] })),
  ];
}

/** Steps of an answer: deltas, `{comment}`, `{pause}`, `{failure}`, `{drop}`. */
function script(request) {
  const last = request.messages.at(-1);
  const text = last.content;
  if (last.role === "tool") return content(`The tool said: ${text}`);
  if (text.includes("prefill")) return [...prefill(), ...content("All read.")];
  if (text.includes("break")) return [...content("This was going well until "), { failure: "the model ran out of memory" }];
  if (text.includes("drop")) return [...content("The line goes "), { drop: true }];
  if (text.includes("endless")) return Array.from({ length: 2000 }, (_, n) => [{ content: `word${n} ` }, { pause: 15 }]).flat();
  if (text.includes("long thought")) return reasoning(THOUGHT).flatMap((delta) => [delta, { pause: 40 }]).concat(content("42"));
  if (text.includes("attack")) return content(ATTACK);
  if (text.includes("tool")) return [...content("I look it up."), ...call(0, "weather", '{"place":"Trieste","days":[1,2],"units":{"wind":"m/s"}}'), ...call(1, "tide", "{}")];
  if (text.includes("prose")) return content(PROSE);
  const sum = /(\d+) ?\+ ?(\d+)/.exec(text);
  const answer = sum ? `${sum[1]} + ${sum[2]} = ${Number(sum[1]) + Number(sum[2])}.` : "I do not know. I am a toy.";
  const isThinking = request.thinking?.type === "enabled";
  return [...(isThinking ? reasoning(THOUGHT) : []), ...content(answer)];
}

function prefill() {
  const steps = [512, 1024, 2048, 3072, 4096].map((done) => ({ comment: `prefill ${done}/4096` }));
  return [{ comment: "keep-alive" }, ...steps.flatMap((step) => [step, { pause: 400 }])];
}

/** Writes in pieces that end inside events, lines and characters. */
async function writeCut(response, text) {
  const bytes = Buffer.from(text);
  for (let at = 0; at < bytes.length; at += 37) {
    response.write(bytes.subarray(at, at + 37));
    if (at % 5 === 0) await sleep(0);
  }
}

async function answer(request, response, newline) {
  response.writeHead(200, { "content-type": "text/event-stream; charset=utf-8" });
  const event = (value) => writeCut(response, `data: ${typeof value === "string" ? value : JSON.stringify(value)}${newline}${newline}`);
  const chunk = (delta, finish = null) => ({ choices: [{ index: 0, delta, finish_reason: finish }], usage: null });
  let tokens = 0;
  let thoughts = 0;
  await event(chunk({ role: "assistant", content: null }));
  for (const step of script(request)) {
    if (response.destroyed) return;
    if (step.comment) await writeCut(response, `: ${step.comment}${newline}${newline}`);
    else if (step.pause) await sleep(step.pause);
    else if (step.drop) return response.destroy();
    else if (step.failure) {
      await event({ error: { message: step.failure, type: "server_error" } });
      return response.end();
    } else {
      tokens += 1;
      thoughts += step.reasoning_content ? 1 : 0;
      await event(chunk(step));
    }
  }
  await event(chunk({}, request.tools ? "tool_calls" : "stop"));
  await event({ choices: [], usage: usage(request, tokens, thoughts) });
  await event("[DONE]");
  response.end();
}

function usage(request, tokens, thoughts) {
  const prompt = Math.ceil(JSON.stringify(request.messages).length / 4);
  const hits = request.messages.length > 1 ? Math.floor(prompt / 2) : 0;
  return {
    prompt_tokens: prompt,
    completion_tokens: tokens,
    total_tokens: prompt + tokens,
    prompt_cache_hit_tokens: hits,
    prompt_cache_miss_tokens: prompt - hits,
    completion_tokens_details: { reasoning_tokens: thoughts },
  };
}

function refuse(response, status, message) {
  response.writeHead(status, { "content-type": "application/json" });
  response.end(JSON.stringify({ error: { message, type: "invalid_request_error" } }));
}

async function file(response, name) {
  const headers = { "content-type": `${MEDIA[name.split(".").at(-1)]}; charset=utf-8`, "content-security-policy": POLICY };
  const bytes = await readFile(new URL(name, PAGE)).catch(() => null);
  if (!bytes) return refuse(response, 404, "there is nothing at this path");
  response.writeHead(200, headers);
  response.end(bytes);
}

async function handle(mock, request, response) {
  const part = /^\/page\/([\w.-]+)$/.exec(request.url);
  if (request.url === "/") return file(response, "index.html");
  if (part) return file(response, part[1]);
  if (mock.key && request.headers.authorization !== `Bearer ${mock.key}`) return refuse(response, 401, "the API key is wrong");
  if (request.url === "/v1/models") return response.end(JSON.stringify({ data: [{ id: mock.model, context_length: mock.contextLength }] }));
  let body = "";
  for await (const piece of request) body += piece;
  const asked = JSON.parse(body);
  mock.requests.push(asked);
  const failure = mock.failures.shift();
  if (failure) return refuse(response, failure.status, failure.message);
  await answer(asked, response, mock.newline);
}

/** Starts a mock on a free port: `{url, requests, failures, key, model, newline, close()}`, to be changed at will. */
export async function startMock() {
  const mock = { requests: [], failures: [], key: null, model: "calf", contextLength: 4096, newline: "\r\n" };
  const server = createServer((request, response) => {
    handle(mock, request, response).catch(() => response.destroy());
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  mock.url = `http://127.0.0.1:${server.address().port}`;
  mock.close = () => {
    server.closeAllConnections();
    server.close();
  };
  return mock;
}
