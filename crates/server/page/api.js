// The server, as the page sees it. Paths are relative, so that the page also works behind a prefix.
import { EventParser } from "./sse.js";

const KEY = "cuvier.key";
const UNREACHABLE = "The server cannot be reached. Is it still running?";
const BROKEN_OFF = "The connection broke off before the answer was complete.";

/** Why there is no answer, in words for a person. `status` is 0 where no HTTP status came. */
export class Failure extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }
}

let keyInMemory = "";

/** The key is kept for this tab only; where storage is disabled, until a reload. */
export function setKey(key) {
  keyInMemory = key;
  try {
    sessionStorage.setItem(KEY, key);
  } catch {
    // Kept in memory.
  }
}

function key() {
  try {
    return sessionStorage.getItem(KEY) ?? keyInMemory;
  } catch {
    return keyInMemory;
  }
}

async function ask(path, init = {}) {
  const headers = { ...init.headers };
  if (key()) headers.authorization = `Bearer ${key()}`;
  let response;
  try {
    response = await fetch(path, { ...init, headers });
  } catch (error) {
    throw error.name === "AbortError" ? error : new Failure(UNREACHABLE);
  }
  if (!response.ok) throw await failure(response);
  return response;
}

async function failure(response) {
  const text = await response.text().catch(() => "");
  return new Failure(messageOf(text) ?? `The server answered ${response.status} ${response.statusText}.`, response.status);
}

function messageOf(text) {
  try {
    const message = JSON.parse(text).error?.message;
    return typeof message === "string" ? sentence(message) : undefined;
  } catch {
    return undefined;
  }
}

/** The server's messages begin small and end without a stop, to fit into others. */
function sentence(message) {
  const text = message.trim();
  return text.charAt(0).toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".");
}

/** `{id, contextLength}` of the model that answers. */
export async function model() {
  const response = await ask("v1/models");
  const entry = (await response.json()).data?.[0];
  if (!entry) throw new Failure("The server names no model.");
  return { id: entry.id, contextLength: entry.context_length };
}

/** Streams an answer: `{prefill}`, `{delta}`, `{finish}` and `{usage}` as they come. */
export async function* chat(request, signal) {
  const response = await ask("v1/chat/completions", {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(request),
    signal,
  });
  let isDone = false;
  for await (const event of events(response)) {
    if (event.data === "[DONE]") return;
    for (const news of event.comment === undefined ? chunkNews(event.data) : commentNews(event.comment)) {
      isDone ||= news.finish !== undefined;
      yield news;
    }
  }
  if (!isDone) throw new Failure(BROKEN_OFF);
}

async function* events(response) {
  const reader = response.body.getReader();
  const decoder = new TextDecoder();
  const parser = new EventParser();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      yield* parser.push(decoder.decode(value, { stream: true }));
    }
  } catch (error) {
    throw error.name === "AbortError" ? error : new Failure(BROKEN_OFF);
  } finally {
    reader.cancel().catch(() => {});
  }
  yield* parser.end();
}

function commentNews(comment) {
  const match = /^prefill (\d+)\/(\d+)$/.exec(comment);
  return match ? [{ prefill: { done: Number(match[1]), total: Number(match[2]) } }] : [];
}

function chunkNews(data) {
  let chunk;
  try {
    chunk = JSON.parse(data);
  } catch {
    throw new Failure("The server sent something that is no part of an answer.");
  }
  if (chunk.error) throw new Failure(sentence(chunk.error.message ?? "the server failed"));
  const choice = chunk.choices?.[0];
  const news = [];
  if (choice?.delta) news.push({ delta: choice.delta });
  if (choice?.finish_reason) news.push({ finish: choice.finish_reason });
  if (chunk.usage) news.push({ usage: chunk.usage });
  return news;
}
