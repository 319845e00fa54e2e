// A conversation as the page keeps it, and as the server reads it.
import { withFiles } from "./attach.js";

const NO_RESULT = "No result was given.";

export function userMessage(text, files) {
  return { role: "user", text, files };
}

/** What tools gave back: `[{id, name, text}]`. */
export function toolMessage(results) {
  return { role: "tool", results };
}

/** An answer that has not begun. Times are milliseconds since `startedAt`. */
export function newAnswer() {
  return {
    role: "assistant",
    isLive: true,
    reasoning: "",
    content: "",
    calls: [],
    startedAt: Date.now(),
    firstMs: null,
    thoughtMs: null,
    totalMs: null,
    pieces: 0,
    reasoningPieces: 0,
    prefill: null,
    usage: null,
    finish: null,
    problem: null,
    isStopped: false,
  };
}

export function hasBegun(answer) {
  return answer.reasoning !== "" || answer.content !== "" || answer.calls.length > 0;
}

export const elapsedMs = (answer) => answer.totalMs ?? Date.now() - answer.startedAt;

/** Adds what the server sent to an answer. */
export function take(answer, news) {
  if (news.prefill) answer.prefill = news.prefill;
  if (news.delta) takeDelta(answer, news.delta);
  if (news.finish) answer.finish = news.finish;
  if (news.usage) answer.usage = news.usage;
}

function takeDelta(answer, delta) {
  const hasText = delta.reasoning_content || delta.content || delta.tool_calls?.length;
  if (!hasText) return;
  answer.firstMs ??= elapsedMs(answer);
  answer.pieces += 1;
  if (delta.reasoning_content) {
    answer.reasoning += delta.reasoning_content;
    answer.reasoningPieces += 1;
  } else if (answer.reasoning) {
    answer.thoughtMs ??= elapsedMs(answer);
  }
  answer.content += delta.content ?? "";
  for (const piece of delta.tool_calls ?? []) takeCall(answer.calls, piece);
}

function takeCall(calls, piece) {
  const index = piece.index ?? calls.length;
  let call = calls.find((call) => call.index === index);
  if (!call) calls.push((call = { index, id: piece.id ?? `call_${index}`, name: "", arguments: "" }));
  call.name += piece.function?.name ?? "";
  call.arguments += piece.function?.arguments ?? "";
}

/** `problem` says why the answer is not whole: `{message, isStop}`, or nothing. */
export function close(answer, problem) {
  answer.totalMs = elapsedMs(answer);
  if (answer.reasoning) answer.thoughtMs ??= answer.totalMs;
  answer.isLive = false;
  answer.prefill = null;
  answer.problem = problem?.message ?? null;
  answer.isStopped = problem?.isStop ?? false;
}

/** Calls at the end of a conversation, which wait for their results. */
export function openCalls(messages) {
  const last = messages.at(-1);
  return last?.role === "assistant" && !last.isLive ? last.calls : [];
}

/** `messages` of a request. Every call gets a result, since servers refuse a call without one. */
export function wireMessages(messages, system) {
  const wire = system.trim() ? [{ role: "system", content: system }] : [];
  messages.forEach((message, index) => {
    if (message.role === "user") wire.push({ role: "user", content: withFiles(message.text, message.files) });
    if (message.role === "tool") wire.push(...message.results.map(wireResult));
    if (message.role !== "assistant" || !hasBegun(message)) return;
    wire.push(wireAnswer(message));
    const isAnswered = messages[index + 1]?.role === "tool" || index === messages.length - 1;
    if (!isAnswered) wire.push(...message.calls.map(({ id }) => wireResult({ id, text: NO_RESULT })));
  });
  return wire;
}

function wireAnswer({ content, reasoning, calls }) {
  const answer = { role: "assistant", content };
  if (reasoning) answer.reasoning_content = reasoning;
  if (calls.length) answer.tool_calls = calls.map(wireCall);
  return answer;
}

const wireCall = ({ id, name, arguments: text }) => ({ id, type: "function", function: { name, arguments: text } });
const wireResult = ({ id, text }) => ({ role: "tool", tool_call_id: id, content: text });
