// What outlives a reload: the conversation, the draft and the settings, in this browser only.

const CONVERSATION = "cuvier.conversation";
const SETTINGS = "cuvier.settings";
const THEME = "cuvier.theme";

/** Browsers give 5 MiB, counted in UTF-16 units of two bytes; what others store has to fit beside it. */
const CONVERSATION_UNITS_MAX = 2_000_000;

function read(name) {
  try {
    return JSON.parse(localStorage.getItem(name));
  } catch {
    return null;
  }
}

function write(name, text) {
  try {
    localStorage.setItem(name, text);
  } catch {
    // Disabled or full: the page goes on without a memory.
  }
}

/** `{messages, draft, isCut}`; `isCut` if the oldest messages did not fit. */
export function loadConversation() {
  const saved = read(CONVERSATION);
  const messages = Array.isArray(saved?.messages) ? saved.messages.filter(isMessage) : [];
  return { messages, draft: String(saved?.draft ?? ""), isCut: saved?.isCut === true };
}

function isMessage(message) {
  if (message?.role === "user") return typeof message.text === "string" && Array.isArray(message.files);
  if (message?.role === "assistant") return typeof message.content === "string" && Array.isArray(message.calls);
  return message?.role === "tool" && Array.isArray(message.results);
}

/** Keeps the newest turns that fit; a conversation begins with a user's message. */
export function saveConversation(conversation) {
  let { messages, isCut } = conversation;
  let text = JSON.stringify(conversation);
  while (text.length > CONVERSATION_UNITS_MAX && messages.length > 0) {
    const next = messages.findIndex((message, index) => index > 0 && message.role === "user");
    messages = next < 0 ? [] : messages.slice(next);
    isCut = true;
    text = JSON.stringify({ ...conversation, messages, isCut });
  }
  write(CONVERSATION, text);
}

export const loadSettings = () => read(SETTINGS) ?? {};
export const saveSettings = (settings) => write(SETTINGS, JSON.stringify(settings));

/** Plain text, as `theme.js` reads it before anything else is there. */
export const saveTheme = (theme) => write(THEME, theme);
