// The box: text, files, and whether an earlier message is being edited.
import { readTextFile } from "./attach.js";
import { announce, h, icon, iconButton } from "./dom.js";

const byId = (id) => document.getElementById(id);

export class Composer {
  #files = [];
  #stash = null;
  #form = byId("composer");
  #box = byId("box");
  #button = byId("send");
  #chips = byId("chips");
  #complaint = byId("complaint");
  #isLive = false;

  /** `on`: `send(text, files)`, `stop()`, `change()`, `cancelEdit()`. */
  constructor(on) {
    this.on = on;
    this.#form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#act();
    });
    this.#box.addEventListener("keydown", (event) => this.#key(event));
    this.#box.addEventListener("input", () => this.#changed());
    this.#box.addEventListener("paste", (event) => this.#take(event, event.clipboardData));
    byId("cancel-edit").addEventListener("click", () => this.on.cancelEdit());
    this.#wireFiles();
  }

  get text() {
    return this.#box.value;
  }

  set text(text) {
    this.#box.value = text;
    this.#changed();
  }

  get isEditing() {
    return this.#stash !== null;
  }

  focus() {
    this.#box.focus();
  }

  send() {
    this.#act();
  }

  /** While an answer streams the button stops it. */
  setLive(isLive) {
    this.#isLive = isLive;
    const label = isLive ? "Stop" : "Send";
    this.#button.replaceChildren(icon(isLive ? "stop" : "send-icon"));
    this.#button.setAttribute("aria-label", label);
    this.#button.title = isLive ? "Stop (Esc)" : "Send (Enter)";
    this.#button.classList.toggle("is-stop", isLive);
    this.#changed();
  }

  clear() {
    this.#files = [];
    this.#drawChips();
    this.text = "";
  }

  /** Puts a message back that was not answered, before whatever was typed since. */
  restore({ text, files }) {
    this.#files = [...files, ...this.#files];
    this.#drawChips();
    this.text = [text, this.text].filter(Boolean).join("\n\n");
  }

  /** Takes an earlier message into the box; what stood there comes back when the edit is over. */
  startEdit({ text, files }) {
    this.#stash ??= { text: this.text, files: this.#files };
    this.#files = [...files];
    this.#showEdit(true);
    this.text = text;
    this.focus();
  }

  endEdit() {
    const stash = this.#stash;
    this.#stash = null;
    this.#showEdit(false);
    this.#files = stash.files;
    this.#drawChips();
    this.text = stash.text;
  }

  #showEdit(isEditing) {
    byId("editing").hidden = !isEditing;
    this.#drawChips();
  }

  #act() {
    if (this.#isLive) return this.on.stop();
    const text = this.text.trim();
    if (text || this.#files.length) this.on.send(text, this.#files);
  }

  /** Enter that ends the composition of a character (in Japanese, say) sends nothing. */
  #key(event) {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    if (!this.#isLive) this.#act();
  }

  #changed() {
    this.#box.style.height = "auto";
    this.#box.style.height = `${this.#box.scrollHeight}px`;
    const isEmpty = this.text.trim() === "" && this.#files.length === 0;
    this.#button.disabled = isEmpty && !this.#isLive;
    this.on.change();
  }

  #wireFiles() {
    const input = byId("file-input");
    byId("attach").addEventListener("click", () => input.click());
    input.addEventListener("change", () => {
      this.#add([...input.files]);
      input.value = "";
    });
    const body = document.body;
    const hover = (isOver) => body.classList.toggle("is-dragging", isOver);
    body.addEventListener("dragover", (event) => {
      if (!event.dataTransfer.types.includes("Files")) return;
      event.preventDefault();
      hover(true);
    });
    body.addEventListener("dragleave", (event) => event.relatedTarget === null && hover(false));
    body.addEventListener("drop", (event) => {
      hover(false);
      this.#take(event, event.dataTransfer);
    });
  }

  #take(event, transfer) {
    const files = [...(transfer?.files ?? [])];
    if (files.length === 0) return;
    event.preventDefault();
    this.#add(files);
  }

  async #add(files) {
    this.#complain("");
    for (const file of files) {
      try {
        this.#files = [...this.#files, await readTextFile(file)];
        announce(`${file.name} attached`);
      } catch (error) {
        this.#complain(error.message);
      }
    }
    this.#drawChips();
    this.focus();
  }

  #complain(text) {
    this.#complaint.textContent = text;
    this.#complaint.hidden = text === "";
  }

  #drawChips() {
    const chip = (file) => {
      const remove = iconButton("close", `Remove ${file.name}`, () => {
        this.#files = this.#files.filter((other) => other !== file);
        this.#drawChips();
        this.focus();
      });
      return h("li", { class: "chip" }, icon("file"), h("span", {}, file.name), remove);
    };
    this.#chips.replaceChildren(...this.#files.map(chip));
    this.#chips.hidden = this.#files.length === 0;
    this.#changed();
  }
}
