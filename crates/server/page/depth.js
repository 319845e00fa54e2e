// How deep a conversation is in the context: a sounding line at the side, a thin one on a phone.
import { h } from "./dom.js";

const compact = new Intl.NumberFormat("en", { notation: "compact" });
const label = (tokens) => (tokens < 10_000 ? tokens.toLocaleString("en") : compact.format(tokens));

/** Depth from 0 to 1. Logarithmic, so that the first thousand tokens of a million still move. */
function depthOf(tokens, contextLength) {
  return Math.min(1, Math.log1p(tokens / 20) / Math.log1p(contextLength / 20));
}

export class DepthGauge {
  #line = document.getElementById("depth");
  #contextLength = 0;
  #tokens = 0;

  setContext(contextLength) {
    this.#contextLength = contextLength;
    this.#line.hidden = !(contextLength > 0);
    this.#line.querySelector(".soundings").replaceChildren(...this.#soundings());
    this.set(this.#tokens);
  }

  set(tokens) {
    this.#tokens = tokens;
    if (!this.#contextLength) return;
    document.documentElement.style.setProperty("--depth", depthOf(tokens, this.#contextLength).toFixed(4));
    const words = `${tokens.toLocaleString("en")} of ${this.#contextLength.toLocaleString("en")} tokens of context`;
    this.#line.setAttribute("aria-label", words);
    this.#line.title = words;
    this.#line.querySelector(".here").textContent = tokens ? label(tokens) : "";
  }

  /** A mark at every power of ten, and the floor. A power close to the floor would lie on its label. */
  #soundings() {
    const floor = this.#contextLength;
    const marks = [100, 1000, 10_000, 100_000].filter((mark) => depthOf(mark, floor) < 0.93);
    return [...marks, floor].map((tokens) => {
      const mark = h("li", {}, label(tokens));
      mark.style.setProperty("--at", depthOf(tokens, floor).toFixed(4));
      return mark;
    });
  }
}
