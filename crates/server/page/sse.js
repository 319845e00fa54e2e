// Server-sent events from text that may be cut anywhere.

export class EventParser {
  #rest = "";
  #data = [];

  /** Takes the next piece of the stream; gives `{data}` and `{comment}` in the order they came. */
  push(text) {
    const whole = this.#rest + text;
    // A CR at the end may be half of a CRLF: it waits for what follows.
    const held = whole.endsWith("\r") ? "\r" : "";
    const lines = whole.slice(0, whole.length - held.length).split(/\r\n|\n|\r/);
    this.#rest = lines.pop() + held;
    return lines.flatMap((line) => this.#line(line));
  }

  /** What a server left unfinished that closed without a last blank line. */
  end() {
    return [...this.push("\n"), ...this.push("\n")];
  }

  #line(line) {
    if (line === "") {
      const data = this.#data.splice(0);
      return data.length ? [{ data: data.join("\n") }] : [];
    }
    if (line.startsWith(":")) return [{ comment: line.slice(1).trim() }];
    const colon = line.indexOf(":");
    const field = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
    if (field === "data") this.#data.push(value);
    return [];
  }
}
