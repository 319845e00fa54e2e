// Turns of a conversation as elements.
import { elapsedMs, hasBegun } from "./conversation.js";
import { copyButton, h, icon, iconButton } from "./dom.js";
import { MarkdownView } from "./markdown.js";

const number = new Intl.NumberFormat("en");
const count = (n, noun) => `${number.format(n)} ${noun}${n === 1 ? "" : "s"}`;

/** The unit stays on the line of its number. */
function seconds(ms) {
  if (ms < 10_000) return `${(ms / 1000).toFixed(ms < 1000 ? 2 : 1)}\u00a0s`;
  if (ms < 60_000) return `${Math.round(ms / 1000)}\u00a0s`;
  return `${Math.floor(ms / 60_000)}\u00a0min ${Math.floor((ms % 60_000) / 1000)}\u00a0s`;
}

/** Sets text only where it differs, so that a selection in it survives. */
function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** A view of a message: `{element, update()}`. `actions` is what a person can do to it. */
export function viewOf(message, actions) {
  if (message.role === "user") return new UserView(message, actions);
  if (message.role === "tool") return new ToolView(message);
  return new AnswerView(message, actions);
}

class UserView {
  constructor(message, actions) {
    const edit = iconButton("edit", "Edit and send again", () => actions.edit(message));
    const chips = message.files.map((file) => h("li", { class: "chip" }, icon("file"), h("span", {}, file.name)));
    this.element = h(
      "article",
      { class: "turn user", "aria-label": "You" },
      h(
        "div",
        { class: "said" },
        chips.length > 0 && h("ul", { class: "chips", "aria-label": "Attached files" }, ...chips),
        message.text && h("p", {}, message.text),
      ),
      h("div", { class: "actions" }, edit, copyButton("Copy message", () => message.text)),
    );
  }

  update() {}
}

class ToolView {
  constructor(message) {
    const result = ({ name, text }) =>
      h("details", { class: "result" }, h("summary", {}, "Result of ", h("code", {}, name)), h("pre", {}, text));
    this.element = h("article", { class: "turn tool", "aria-label": "Results" }, ...message.results.map(result));
  }

  update() {}
}

class AnswerView {
  #calls = [];

  constructor(message, actions) {
    this.message = message;
    this.progress = new ProgressView();
    this.thinking = new ThinkingView();
    this.content = h("div", { class: "prose" });
    this.markdown = new MarkdownView(this.content);
    this.calls = h("div", { class: "calls" });
    this.results = h("button", { type: "button", class: "plain-button", onclick: () => this.#sendResults(actions) }, "Send results");
    this.problem = h("p", { class: "problem" });
    this.stats = h("p", { class: "stats" });
    this.actions = h(
      "div",
      { class: "actions" },
      copyButton("Copy answer", () => message.content),
      iconButton("retry", "Answer again", () => actions.retry(message)),
    );
    const retry = h("button", { type: "button", class: "plain-button", onclick: () => actions.retry(message) }, "Try again");
    this.problemBox = h("div", { class: "notice" }, this.problem, retry);
    this.element = h(
      "article",
      { class: "turn answer", "aria-label": "Answer" },
      this.progress.element,
      this.thinking.element,
      this.content,
      this.calls,
      this.results,
      this.problemBox,
      h("footer", {}, this.stats, this.actions),
    );
  }

  /** `isOpen`: whether the calls of this answer wait for results. */
  update(isOpen = false) {
    const { message } = this;
    this.element.classList.toggle("is-live", message.isLive);
    this.progress.update(message);
    this.thinking.update(message);
    this.markdown.update(message.content);
    this.#updateCalls(isOpen);
    this.problemBox.hidden = !message.problem;
    this.problemBox.classList.toggle("is-calm", message.isStopped);
    setText(this.problem, message.problem ?? "");
    setText(this.stats, message.isLive ? liveStats(message) : finalStats(message));
    this.stats.title = message.isLive ? "" : cacheWords(message.usage);
    this.actions.hidden = message.isLive;
  }

  #updateCalls(isOpen) {
    const { calls } = this.message;
    while (this.#calls.length < calls.length) {
      const view = new CallView(calls[this.#calls.length]);
      this.#calls.push(view);
      this.calls.append(view.element);
    }
    for (const view of this.#calls) view.update(this.message.isLive, isOpen);
    this.results.hidden = !isOpen || calls.length === 0;
  }

  #sendResults(actions) {
    actions.sendResults(this.#calls.map((view) => view.result()));
  }
}

/** Before the first token: how far the prompt is read. */
class ProgressView {
  constructor() {
    this.words = h("span");
    this.bar = h("progress", { max: "1", "aria-label": "Prompt read" });
    this.element = h("div", { class: "waiting" }, h("span", { class: "sonar", "aria-hidden": "true" }), this.words, this.bar);
  }

  update(message) {
    this.element.hidden = !message.isLive || hasBegun(message);
    this.bar.hidden = !message.prefill;
    if (!message.prefill) return setText(this.words, "Waiting for the model");
    const { done, total } = message.prefill;
    this.bar.value = total > 0 ? done / total : 0;
    setText(this.words, `Reading the prompt, ${number.format(done)} of ${count(total, "token")}`);
  }
}

class ThinkingView {
  constructor() {
    this.title = h("span", { class: "title" });
    this.facts = h("span", { class: "facts" });
    this.text = h("div", { class: "thoughts" });
    this.element = h("details", { class: "thinking" }, h("summary", {}, this.title, this.facts), this.text);
  }

  update(message) {
    this.element.hidden = message.reasoning === "";
    const isThinking = message.isLive && message.thoughtMs === null;
    this.element.classList.toggle("is-live", isThinking);
    setText(this.title, isThinking ? "Thinking" : "Thought");
    const tokens = message.usage?.completion_tokens_details?.reasoning_tokens ?? message.reasoningPieces;
    const ms = (message.thoughtMs ?? elapsedMs(message)) - (message.firstMs ?? 0);
    setText(this.facts, `${seconds(ms)} · ${count(tokens, "token")}`);
    setText(this.text, message.reasoning);
  }
}

class CallView {
  constructor(call) {
    this.call = call;
    this.name = h("code");
    this.state = h("span", { class: "state" });
    this.arguments = h("code");
    this.box = h("textarea", { rows: "2", placeholder: "What the tool gives back" });
    this.reply = h("label", { class: "reply" }, h("span", {}, "Result"), this.box);
    this.element = h(
      "section",
      { class: "call", "aria-label": "Tool call" },
      h("header", {}, icon("tool"), this.name, this.state),
      h("pre", { tabindex: "0" }, this.arguments),
      this.reply,
    );
  }

  update(isLive, isOpen) {
    setText(this.name, this.call.name);
    setText(this.state, isLive ? "calling" : isOpen ? "waits for a result" : "called");
    setText(this.arguments, prettyJson(this.call.arguments));
    this.reply.hidden = !isOpen;
  }

  result() {
    return { id: this.call.id, name: this.call.name, text: this.box.value };
  }
}

/** Lays JSON out, also while it is still incomplete. */
export function prettyJson(text) {
  let out = "";
  let depth = 0;
  const newline = () => `\n${"  ".repeat(Math.max(0, Math.min(depth, 20)))}`;
  // Strings, which may break off; empty brackets; and every other character by itself.
  for (const [token] of text.matchAll(/"(?:[^"\\]|\\[^])*"?|\{\s*\}|\[\s*\]|[^]/g)) {
    if (token.length > 1 || token === '"') out += token.startsWith('"') ? token : token[0] + token.at(-1);
    else if (token === "{" || token === "[") out += token + ((depth += 1), newline());
    else if (token === "}" || token === "]") out += ((depth -= 1), newline()) + token;
    else if (token === ",") out += token + newline();
    else if (token === ":") out += ": ";
    else if (!/\s/.test(token)) out += token;
  }
  return out;
}

function liveStats(message) {
  if (message.firstMs === null) return seconds(elapsedMs(message));
  return [count(message.pieces, "token"), speed(message.pieces, message)].filter(Boolean).join(" · ");
}

/** Without `usage` (a stopped answer) pieces are counted, of which a token makes one. */
function finalStats(message) {
  if (message.firstMs === null) return "";
  const tokens = message.usage?.completion_tokens ?? message.pieces;
  const facts = [
    message.usage ? count(tokens, "token") : `about ${count(tokens, "token")}`,
    speed(tokens, message),
    `first after ${seconds(message.firstMs)}`,
    cacheFact(message.usage),
    message.finish === "length" && "cut off at the token limit",
  ];
  return facts.filter(Boolean).join(" · ");
}

/** What is shorter says more about how packets were gathered on the way than about the model. */
const MEASURABLE_MS = 100;

/**
 * The first token is the prompt's work, so it is left out of both sides; except in an answer too short to measure
 * so, whose rate is that of the whole time.
 */
function speed(count, message) {
  const afterFirstMs = elapsedMs(message) - message.firstMs;
  const isMeasurable = afterFirstMs >= MEASURABLE_MS;
  const tokens = isMeasurable ? count - 1 : count;
  const ms = isMeasurable ? afterFirstMs : elapsedMs(message);
  if (tokens < 1 || ms < 1) return null;
  const perSecond = (tokens * 1000) / ms;
  return `${perSecond < 100 ? perSecond.toFixed(1) : number.format(Math.round(perSecond))} tokens/s`;
}

function cacheFact(usage) {
  if (!usage?.prompt_tokens) return null;
  const hits = usage.prompt_cache_hit_tokens ?? 0;
  return hits > 0
    ? `prompt ${number.format(usage.prompt_tokens)}, ${number.format(hits)} from cache`
    : `prompt ${number.format(usage.prompt_tokens)}`;
}

function cacheWords(usage) {
  if (!usage) return "";
  const { prompt_cache_hit_tokens: hits = 0, prompt_cache_miss_tokens: misses = 0 } = usage;
  return `Prompt: ${count(hits, "token")} from the cache, ${number.format(misses)} computed`;
}
