// How the model is asked: fast or expert, and what stands under "Advanced".
import { loadSettings, saveSettings } from "./store.js";

const byId = (id) => document.getElementById(id);
const FIELDS = ["system", "temperature", "max-tokens", "tools"];
const EFFORTS = ["low", "high", "max"];

export class Settings {
  #dialog = byId("advanced");

  constructor() {
    const saved = loadSettings();
    for (const id of FIELDS) byId(id).value = saved[id] ?? "";
    byId("effort").value = EFFORTS.includes(saved.effort) ? saved.effort : "high";
    byId(saved.mode === "expert" ? "expert" : "fast").checked = true;
    byId("modes").addEventListener("change", () => this.#changed());
    byId("open-advanced").addEventListener("click", () => this.#dialog.showModal());
    this.#dialog.addEventListener("input", () => this.#changed());
    byId("advanced-form").addEventListener("submit", (event) => {
      event.preventDefault();
      if (this.#toolsProblem() === "") this.#dialog.close();
    });
    this.#dialog.addEventListener("click", (event) => event.target === this.#dialog && this.#dialog.close());
    this.#changed();
  }

  get isExpert() {
    return byId("expert").checked;
  }

  get system() {
    return byId("system").value;
  }

  /** The part of a request that says how to answer. Tools that cannot be read are left out: the panel says so. */
  request() {
    const request = { thinking: { type: this.isExpert ? "enabled" : "disabled" } };
    if (this.isExpert) request.reasoning_effort = byId("effort").value;
    const temperature = byId("temperature").valueAsNumber;
    const limit = byId("max-tokens").valueAsNumber;
    if (Number.isFinite(temperature)) request.temperature = temperature;
    if (limit >= 1) request.max_tokens = Math.floor(limit);
    const { tools } = readTools(byId("tools").value);
    if (tools?.length) request.tools = tools;
    return request;
  }

  #changed() {
    byId("effort").hidden = !this.isExpert;
    const problem = this.#toolsProblem();
    byId("tools-problem").textContent = problem;
    byId("tools").setAttribute("aria-invalid", String(problem !== ""));
    const isSet = FIELDS.some((id) => byId(id).value.trim() !== "");
    byId("open-advanced").classList.toggle("is-set", isSet);
    this.#save();
  }

  #toolsProblem() {
    return readTools(byId("tools").value).problem ?? "";
  }

  #save() {
    const fields = Object.fromEntries(FIELDS.map((id) => [id, byId(id).value]));
    saveSettings({ ...fields, effort: byId("effort").value, mode: this.isExpert ? "expert" : "fast" });
  }
}

/** `{tools}` or `{problem}`. A bare function is taken for a tool. */
function readTools(text) {
  if (text.trim() === "") return { tools: [] };
  let list;
  try {
    list = JSON.parse(text);
  } catch (error) {
    return { problem: `This is not JSON: ${error.message}` };
  }
  if (!Array.isArray(list)) return { problem: "This is not a list: begin it with [ and end it with ]." };
  const tools = list.map((tool) => (tool?.function ? tool : { type: "function", function: tool }));
  const nameless = tools.findIndex((tool) => typeof tool.function?.name !== "string");
  return nameless < 0 ? { tools } : { problem: `Tool ${nameless + 1} has no name.` };
}
