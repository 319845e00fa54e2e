// The page: one conversation with the model of this server.
import * as api from "./api.js";
import { Composer } from "./composer.js";
import * as talk from "./conversation.js";
import { DepthGauge } from "./depth.js";
import { announce, h } from "./dom.js";
import { Settings } from "./settings.js";
import * as store from "./store.js";
import { viewOf } from "./view.js";

const byId = (id) => document.getElementById(id);
const hasMouse = matchMedia("(hover: hover)").matches;

const TOY_PROMPTS = ["17 + 25 = ?", "Remember that the code of the red lantern is 4821. What is the code of the red lantern?", "Who are you?"];
const PROMPTS = [
  "How does a beaked whale dive to 3,000 metres?",
  "Write a Rust function that merges two sorted lists.",
  "What is 27 + 58, and how do you know?",
];

/** How near its end the conversation must be scrolled to follow an answer. */
const FOLLOW_PX = 80;
const SAVE_EVERY_MS = 1000;
const TICK_MS = 200;

const LEFT = { message: "The page was left before the answer was complete.", isStop: true };

const saved = store.loadConversation();
let messages = saved.messages;
let isCut = saved.isCut;
let modelId = null;
let controller = null;
/** Why the last attempt gave no answer: `{text, label, act}`. */
let notice = null;
/** Index of the message that is edited. */
let editedIndex = null;
let isDrawQueued = false;
let isFollowing = true;
/** A page that goes away breaks its connections off; that is no failure. */
let isLeaving = false;

const views = new WeakMap();
const log = byId("log");
const scroller = byId("scroller");
const settings = new Settings();
const gauge = new DepthGauge();
const composer = new Composer({ send, stop, change: saveSoon, cancelEdit });

const actions = {
  edit: (message) => beginEdit(messages.indexOf(message), message),
  retry: (message) => attempt(messages.indexOf(message), null),
  sendResults: (results) => attempt(messages.length, talk.toolMessage(results)),
};

// --- Asking

function send(text, files) {
  const message = talk.userMessage(text, files);
  const start = editedIndex ?? messages.length;
  if (composer.isEditing) endEdit();
  else composer.clear();
  attempt(start, message);
}

/** Replaces everything from `start` by `message`, if there is one, and an answer to it. */
async function attempt(start, message) {
  if (controller) return;
  if (composer.isEditing) endEdit();
  const removed = messages.splice(start);
  if (message) messages.push(message);
  const request = requestOf();
  const answer = talk.newAnswer();
  messages.push(answer);
  notice = null;
  controller = new AbortController();
  isFollowing = true;
  showLive(true);
  const problem = await stream(request, answer, controller.signal);
  controller = null;
  talk.close(answer, problem);
  if (problem && !problem.isStop && !talk.hasBegun(answer)) giveBack(start, message, removed, problem);
  showLive(false);
}

function requestOf() {
  return {
    model: modelId ?? undefined,
    messages: talk.wireMessages(messages, settings.system),
    stream: true,
    stream_options: { include_usage: true },
    ...settings.request(),
  };
}

/** Gives the problem, if the answer did not come whole. */
async function stream(request, answer, signal) {
  const ticks = setInterval(drawSoon, TICK_MS);
  try {
    for await (const news of api.chat(request, signal)) {
      takeNews(answer, news);
      drawSoon();
    }
    return talk.hasBegun(answer) ? null : { message: "The model gave an empty answer." };
  } catch (error) {
    if (isLeaving) return LEFT;
    if (signal.aborted) return { message: "Stopped.", isStop: true };
    return { message: error.message, status: error.status };
  } finally {
    clearInterval(ticks);
  }
}

function takeNews(answer, news) {
  const wasReasoning = answer.reasoning !== "";
  const wasSpeaking = answer.content !== "";
  talk.take(answer, news);
  if (!wasReasoning && answer.reasoning) announce("Thinking");
  if (!wasSpeaking && answer.content) announce("Answering");
  if (news.usage) showDepth();
}

/** After an attempt without any answer all is as before it, and what was written is in the box. */
function giveBack(start, message, removed, problem) {
  messages.splice(start, Infinity, ...removed);
  notice = { text: problem.message, label: "Try again", act: () => attempt(start, message) };
  if (message?.role === "user") {
    notice.act = () => composer.send();
    if (removed.length) beginEdit(start, message);
    else composer.restore(message);
  }
  if (problem.status === 401) askForKey(notice.act);
}

function stop() {
  controller?.abort();
}

// --- Editing

function beginEdit(index, message) {
  if (controller) return;
  editedIndex = index;
  composer.startEdit(message);
  draw();
}

function endEdit() {
  editedIndex = null;
  composer.endEdit();
}

function cancelEdit() {
  endEdit();
  composer.focus();
  draw();
}

function startOver() {
  stop();
  if (composer.isEditing) endEdit();
  messages = [];
  isCut = false;
  notice = null;
  composer.focus();
  draw();
  announce("New conversation");
  save();
}

// --- Showing

function showLive(isLive) {
  composer.setLive(isLive);
  log.setAttribute("aria-busy", String(isLive));
  draw();
  save();
  if (!isLive) announce(notice?.text ?? messages.at(-1)?.problem ?? "Answer complete");
}

function drawSoon() {
  if (isDrawQueued) return;
  isDrawQueued = true;
  requestAnimationFrame(() => {
    isDrawQueued = false;
    // The answer may have ended since; then all is drawn already.
    if (!controller) return;
    viewFor(messages.at(-1))?.update();
    saveSoon();
    follow();
  });
}

/** Everything; elements of messages that stay are kept where they are, so that a screen reader hears only news. */
function draw() {
  const waiting = talk.openCalls(messages).length > 0;
  const elements = messages.map((message, index) => {
    const view = viewFor(message);
    view.update(waiting && index === messages.length - 1);
    view.element.classList.toggle("is-doomed", editedIndex !== null && index >= editedIndex);
    return view.element;
  });
  if (isCut) elements.unshift(h("p", { class: "cut" }, "Earlier turns were too long to be kept."));
  if (notice) elements.push(noticeElement(notice));
  place(elements);
  byId("empty").hidden = messages.length > 0;
  byId("new").disabled = messages.length === 0 && !notice;
  showDepth();
  follow();
}

/** Whoever pressed a button that is gone now goes on in the box, unless that brings up a phone's keyboard. */
function place(elements) {
  const hadFocus = log.contains(document.activeElement);
  for (const child of [...log.children]) {
    if (!elements.includes(child)) child.remove();
  }
  elements.forEach((element, at) => {
    if (log.children[at] !== element) log.insertBefore(element, log.children[at] ?? null);
  });
  if (hadFocus && !log.contains(document.activeElement) && hasMouse) composer.focus();
}

function viewFor(message) {
  if (!message) return null;
  if (!views.has(message)) views.set(message, viewOf(message, actions));
  return views.get(message);
}

function noticeElement({ text, label, act }) {
  const button = h("button", { type: "button", class: "plain-button", onclick: act }, label);
  return h("div", { class: "notice", role: "alert" }, h("p", {}, text), button);
}

function showDepth() {
  const usage = messages.findLast((message) => message.usage)?.usage;
  gauge.set(usage ? usage.prompt_tokens + usage.completion_tokens : 0);
}

function follow() {
  if (isFollowing) scroller.scrollTop = scroller.scrollHeight;
  byId("to-end").hidden = isFollowing;
}

// --- Keeping

let saveTimer = null;

function saveSoon() {
  saveTimer ??= setTimeout(save, SAVE_EVERY_MS);
}

function save() {
  clearTimeout(saveTimer);
  saveTimer = null;
  store.saveConversation({ messages, isCut, draft: composer.text });
}

/** An answer that streamed when the page was left has ended there. */
function closeInterrupted() {
  const last = messages.at(-1);
  if (last?.isLive) talk.close(last, LEFT);
}

// --- The server

async function meetModel() {
  try {
    const { id, contextLength } = await api.model();
    modelId = id;
    byId("model").textContent = id;
    byId("context").textContent = contextLength ? `${contextLength.toLocaleString("en")} tokens of context` : "";
    gauge.setContext(contextLength ?? 0);
    byId("toy").hidden = id !== "calf";
    showPrompts(id === "calf" ? TOY_PROMPTS : PROMPTS);
    if (notice?.act === meetModel) {
      notice = null;
      draw();
    }
  } catch (error) {
    byId("model").textContent = error.status === 401 ? "needs a key" : "no connection";
    notice = { text: error.message, label: "Try again", act: meetModel };
    if (error.status === 401) askForKey(() => {});
    draw();
  }
}

function showPrompts(prompts) {
  const prompt = (text) => h("li", {}, h("button", { type: "button", onclick: () => send(text, []) }, text));
  byId("prompts").replaceChildren(...prompts.map(prompt));
}

/** Asks once for a key; `act` goes on with what needed it. */
function askForKey(act) {
  const dialog = byId("key-dialog");
  const form = byId("key-form");
  form.onsubmit = async (event) => {
    event.preventDefault();
    api.setKey(byId("key").value.trim());
    byId("key").value = "";
    dialog.close();
    await meetModel();
    act();
  };
  if (!dialog.open) dialog.showModal();
}

// --- Keys and buttons

function isTyping(target) {
  return target.closest("input, textarea, select, dialog") !== null;
}

function key(event) {
  if (document.querySelector("dialog[open]")) return;
  if (event.key === "/" && !isTyping(event.target) && !event.ctrlKey && !event.metaKey) {
    event.preventDefault();
    composer.focus();
  }
  if (event.key !== "Escape" || event.isComposing) return;
  if (controller) stop();
  else if (composer.isEditing) cancelEdit();
}

function isDark() {
  const theme = document.documentElement.dataset.theme;
  return theme ? theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
}

function switchTheme() {
  const theme = isDark() ? "light" : "dark";
  document.documentElement.dataset.theme = theme;
  store.saveTheme(theme);
  announce(`${theme} colours`);
}

document.addEventListener("keydown", key);
byId("theme").addEventListener("click", switchTheme);
byId("new").addEventListener("click", startOver);
byId("key-close").addEventListener("click", () => byId("key-dialog").close());
byId("to-end").addEventListener("click", () => {
  isFollowing = true;
  follow();
});
scroller.addEventListener("scroll", () => {
  isFollowing = scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight < FOLLOW_PX;
  byId("to-end").hidden = isFollowing;
});
addEventListener("pagehide", () => {
  isLeaving = true;
  save();
});
addEventListener("pageshow", () => {
  isLeaving = false;
});

closeInterrupted();
composer.text = saved.draft;
composer.setLive(false);
draw();
if (hasMouse) composer.focus();
meetModel();
