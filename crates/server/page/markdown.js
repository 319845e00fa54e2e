// Markdown of answers, as elements. Model text only ever becomes text nodes; links are checked.
import { copyButton, h } from "./dom.js";

const NESTING_MAX = 8;
const FENCE = /^ {0,3}(`{3,}|~{3,})[ \t]*([^`]*)$/;
const HEADING = /^ {0,3}(#{1,6})(?:[ \t]+(.*?))?[ \t]*#*[ \t]*$/;
const RULE = /^ {0,3}(?:(?:\*[ \t]*){3,}|(?:-[ \t]*){3,}|(?:_[ \t]*){3,})$/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^( {0,3})([-*+]|\d{1,9}[.)])(?:[ \t]+|$)/;
const DELIMITER = /^ {0,3}\|?[ \t]*:?-+:?[ \t]*(?:\|[ \t]*:?-+:?[ \t]*)*\|?[ \t]*$/;

/** Renders a text that only ever grows into `root`; blocks that are complete are not touched again. */
export class MarkdownView {
  #root;
  #length = 0;
  /** Where the last block of complete lines begins: what stands before it is final. */
  #stable = 0;
  /** Elements of what is not final. */
  #loose = [];

  constructor(root) {
    this.#root = root;
  }

  update(text) {
    if (text.length === this.#length) return;
    this.#length = text.length;
    for (const element of this.#loose) element.remove();
    const tail = text.slice(this.#stable);
    this.#loose = split(tail.split("\n")).map((block) => render(block, 0));
    this.#root.append(...this.#loose);
    this.#settle(tail);
  }

  /** A line that is still growing can change the block before it, so only complete lines settle anything. */
  #settle(tail) {
    const complete = tail.slice(0, tail.lastIndexOf("\n") + 1).split("\n");
    const blocks = split(complete.slice(0, -1));
    if (blocks.length < 2) return;
    const first = blocks.at(-1).start;
    this.#stable += complete.slice(0, first).reduce((sum, line) => sum + line.length + 1, 0);
    this.#loose.splice(0, blocks.length - 1);
  }
}

/** Cuts lines into blocks `{kind, start, lines}`. What is appended later changes the last block only. */
function split(lines) {
  const blocks = [];
  let at = 0;
  while (at < lines.length) {
    if (isBlank(lines[at])) {
      at += 1;
      continue;
    }
    const kind = kindAt(lines, at);
    const end = END_OF[kind](lines, at);
    blocks.push({ kind, start: at, lines: lines.slice(at, end) });
    at = end;
  }
  return blocks;
}

const isBlank = (line) => line.trim() === "";

function kindAt(lines, at) {
  const line = lines[at];
  if (FENCE.test(line)) return "fence";
  if (HEADING.test(line)) return "heading";
  if (RULE.test(line)) return "rule";
  if (QUOTE.test(line)) return "quote";
  if (ITEM.test(line)) return "list";
  if (isTableAt(lines, at)) return "table";
  return "paragraph";
}

function isTableAt(lines, at) {
  const next = lines[at + 1];
  if (next === undefined || !lines[at].includes("|") || !next.includes("-") || !DELIMITER.test(next)) return false;
  return cells(lines[at]).length === cells(next).length;
}

const END_OF = {
  heading: (_, at) => at + 1,
  rule: (_, at) => at + 1,
  quote: (lines, at) => endWhile(lines, at, (line) => QUOTE.test(line)),
  table: (lines, at) => endWhile(lines, at + 1, (line) => !isBlank(line) && line.includes("|")),
  fence: endOfFence,
  list: endOfList,
  paragraph: endOfParagraph,
};

function endWhile(lines, at, holds) {
  let end = at + 1;
  while (end < lines.length && holds(lines[end])) end += 1;
  return end;
}

function endOfFence(lines, at) {
  const fence = FENCE.exec(lines[at])[1];
  const closes = (line) => isFenceEnd(line, fence);
  const end = endWhile(lines, at, (line) => !closes(line));
  return Math.min(end + 1, lines.length);
}

function isFenceEnd(line, fence) {
  const trimmed = line.trim();
  return trimmed.length >= fence.length && trimmed === fence[0].repeat(trimmed.length);
}

/** A number interrupts a paragraph only as the first of a list: a year at a line's start is no list. */
function endOfParagraph(lines, at) {
  let end = at + 1;
  while (end < lines.length && !isBlank(lines[end])) {
    const kind = kindAt(lines, end);
    const marker = kind === "list" && ITEM.exec(lines[end]);
    const isLateNumber = marker && /^\d/.test(marker[2]) && parseInt(marker[2], 10) !== 1;
    if (kind !== "paragraph" && !isLateNumber) break;
    end += 1;
  }
  return end;
}

/** To the first line that is neither indented nor an item of the same kind of list. */
function endOfList(lines, at) {
  const isOrdered = isOrderedItem(lines[at]);
  let wasBlank = false;
  return endWhile(lines, at, (line) => {
    const isInside = isBlank(line) || /^(?: {2,}|\t)/.test(line) || isItemLike(line, isOrdered);
    const isLazy = !wasBlank && kindAt([line], 0) === "paragraph";
    wasBlank = isBlank(line);
    return isInside || isLazy;
  });
}

const isOrderedItem = (line) => /\d/.test(ITEM.exec(line)?.[2] ?? "");
const isItemLike = (line, isOrdered) => ITEM.test(line) && !RULE.test(line) && isOrderedItem(line) === isOrdered;

function render(block, depth) {
  return RENDER[block.kind](block.lines, depth);
}

function renderAll(lines, depth) {
  if (depth >= NESTING_MAX) return [renderParagraph(lines)];
  return split(lines).map((block) => render(block, depth));
}

const RENDER = {
  rule: () => h("hr"),
  paragraph: renderParagraph,
  heading: renderHeading,
  quote: (lines, depth) => h("blockquote", {}, ...renderAll(lines.map((line) => line.replace(QUOTE, "")), depth + 1)),
  fence: renderFence,
  list: renderList,
  table: renderTable,
};

function renderParagraph(lines) {
  return h("p", {}, ...inline(lines.map((line) => line.trim()).join("\n")));
}

/** The page has its own first and second levels; an answer's begin below. */
function renderHeading([line]) {
  const [, marks, text = ""] = HEADING.exec(line);
  return h(`h${Math.min(marks.length + 2, 6)}`, { class: `level-${marks.length}` }, ...inline(text));
}

function renderFence(lines) {
  const [, fence, info] = FENCE.exec(lines[0]);
  const isClosed = lines.length > 1 && isFenceEnd(lines.at(-1), fence);
  const code = lines.slice(1, isClosed ? -1 : undefined).join("\n");
  const language = info.trim().split(/\s/)[0].slice(0, 40);
  return h(
    "figure",
    { class: "code" },
    h("figcaption", {}, h("span", {}, language || "text"), copyButton("Copy code", () => code)),
    h("pre", { tabindex: "0" }, h("code", {}, code)),
  );
}

function renderList(lines, depth) {
  const isOrdered = isOrderedItem(lines[0]);
  const items = itemsOf(lines);
  const isLoose = items.some((item) => item.some((line, at) => isBlank(line) && at < item.length - 1));
  const start = isOrdered ? parseInt(lines[0].trim(), 10) : 1;
  return h(
    isOrdered ? "ol" : "ul",
    { start: start === 1 ? null : start, class: isLoose ? "loose" : null },
    ...items.map((item) => renderItem(item, depth)),
  );
}

/** Lines of each item, without its marker and indentation. */
function itemsOf(lines) {
  const isOrdered = isOrderedItem(lines[0]);
  const items = [];
  let indent = 0;
  for (const line of lines) {
    const marker = ITEM.exec(line);
    const isSibling = marker && marker[1].length < Math.max(indent, 2) && isOrderedItem(line) === isOrdered;
    const isNew = marker && (items.length === 0 || isSibling);
    if (isNew) {
      indent = marker[0].trimEnd().length + 1;
      items.push([line.slice(marker[0].length)]);
    } else {
      items.at(-1).push(dedent(line, indent));
    }
  }
  return items;
}

/** Models often indent by less than the marker's width; what is there is taken off, no more. */
function dedent(line, indent) {
  const spaces = /^[ \t]*/.exec(line)[0].replaceAll("\t", "    ").length;
  return " ".repeat(Math.max(0, spaces - indent)) + line.trimStart();
}

function renderItem(lines, depth) {
  const blocks = renderAll(lines, depth + 1);
  // A tight item is its text, not a paragraph.
  const [first, ...rest] = blocks;
  if (first?.tagName === "P") return h("li", {}, h("span", { class: "line" }, ...first.childNodes), ...rest);
  return h("li", {}, ...blocks);
}

function renderTable(lines) {
  const aligns = cells(lines[1]).map(alignment);
  const row = (line, tag) => {
    const texts = cells(line);
    const cell = (align, at) => h(tag, { class: align }, ...inline(texts[at] ?? ""));
    return h("tr", {}, ...aligns.map(cell));
  };
  const body = lines.slice(2).map((line) => row(line, "td"));
  const table = h("table", {}, h("thead", {}, row(lines[0], "th")), h("tbody", {}, ...body));
  return h("div", { class: "table", tabindex: "0", role: "region", "aria-label": "Table" }, table);
}

function cells(line) {
  const inner = line.trim().replace(/^\|/, "").replace(/(^|[^\\])\|$/, "$1");
  return inner.split(/(?<!\\)\|/).map((cell) => cell.trim().replaceAll("\\|", "|"));
}

function alignment(delimiter) {
  const isRight = delimiter.endsWith(":");
  if (isRight && delimiter.startsWith(":")) return "center";
  return isRight ? "right" : null;
}

/** Text with code, emphasis and links, as nodes. */
function inline(text, depth = 0, isInLink = false) {
  if (depth >= NESTING_MAX) return [text];
  return new InlineScanner(text, depth, isInLink).nodes();
}

const PUNCTUATION = /[!-/:-@[-`{-~]/;
const URL_START = /https?:\/\//y;
const URL_REST = /https?:\/\/[^\s<>"'`]+/y;

class InlineScanner {
  #nodes = [];
  #plain = "";
  #at = 0;
  /** Closers that are known not to come any more: keeps hostile text linear. */
  #absent = new Set();

  constructor(text, depth, isInLink) {
    this.text = text;
    this.depth = depth;
    this.isInLink = isInLink;
  }

  nodes() {
    while (this.#at < this.text.length) {
      if (!this.#special()) this.#plain += this.text[this.#at++];
    }
    this.#flush();
    return this.#nodes;
  }

  #special() {
    switch (this.text[this.#at]) {
      case "\\":
        return this.#escape();
      case "`":
        return this.#code();
      case "*":
      case "_":
      case "~":
        return this.#emphasis();
      case "!":
        return this.text[this.#at + 1] === "[" && this.#link(this.#at + 1);
      case "[":
        return this.#link(this.#at);
      case "h":
        return this.#bareUrl();
      default:
        return false;
    }
  }

  #escape() {
    const next = this.text[this.#at + 1];
    if (next === undefined || !PUNCTUATION.test(next)) return false;
    this.#plain += next;
    this.#at += 2;
    return true;
  }

  #code() {
    let width = 1;
    while (this.text[this.#at + width] === "`") width += 1;
    const open = this.#at + width;
    const close = this.#find("`".repeat(width), open, (end) => this.text[end + width] !== "`" && this.text[end - 1] !== "`");
    if (close < 0) {
      this.#plain += "`".repeat(width);
      this.#at = open;
    } else {
      const code = this.text.slice(open, close).replace(/^ (.+) $/, "$1");
      this.#add(h("code", {}, code), close + width);
    }
    return true;
  }

  #emphasis() {
    const mark = this.text[this.#at];
    let width = 1;
    while (this.text[this.#at + width] === mark) width += 1;
    const tags = mark === "~" ? [null, null, "del"] : [null, "em", "strong"];
    const kind = Math.min(width, 3) === 3 ? "both" : tags[width];
    const closer = mark.repeat(Math.min(width, 3));
    const open = this.#at + closer.length;
    if (!kind || (kind === "both" && mark === "~") || !this.#canOpen(mark, width)) return this.#literal(width);
    const close = this.#find(closer, open, (end) => this.#canClose(mark, closer.length, end));
    if (close < 0) return this.#literal(width);
    const inner = inline(this.text.slice(open, close), this.depth + 1, this.isInLink);
    const element = kind === "both" ? h("strong", {}, h("em", {}, ...inner)) : h(kind, {}, ...inner);
    this.#add(element, close + closer.length);
    return true;
  }

  #literal(width) {
    this.#plain += this.text.slice(this.#at, this.#at + width);
    this.#at += width;
    return true;
  }

  /** A single star between word characters is a product, an underscore part of a name. */
  #canOpen(mark, width) {
    const before = this.text[this.#at - 1] ?? " ";
    const after = this.text[this.#at + width] ?? " ";
    if (/\s/.test(after)) return false;
    const isInWord = /[A-Za-z0-9]/.test(before);
    return !(isInWord && (mark === "_" || width === 1));
  }

  #canClose(mark, width, end) {
    const before = this.text[end - 1];
    const after = this.text[end + width] ?? " ";
    if (/\s/.test(before) || after === mark || before === mark || before === "\\") return false;
    return mark !== "_" || !/[A-Za-z0-9]/.test(after);
  }

  #find(closer, from, isGood) {
    if (this.#absent.has(closer)) return -1;
    let end = this.text.indexOf(closer, from + 1);
    while (end >= 0 && !isGood(end)) end = this.text.indexOf(closer, end + 1);
    if (end < 0) this.#absent.add(closer);
    return end;
  }

  /** `[label](address)`; `open` is at the bracket. An image is a link too: nothing is loaded from elsewhere. */
  #link(open) {
    const middle = this.isInLink ? -1 : this.#find("](", open, () => true);
    if (middle < 0) return false;
    const close = closingParenthesis(this.text, middle + 2);
    const label = this.text.slice(open + 1, middle);
    if (close < 0 || label.includes("\n\n") || label.includes("[")) return false;
    const address = this.text.slice(middle + 2, close).trim().split(/\s/)[0].replace(/^<(.*)>$/, "$1");
    const nodes = inline(label || address, this.depth + 1, true);
    const url = safeUrl(address);
    if (url) this.#add(anchor(url, nodes), close + 1);
    else this.#add(h("span", { class: "dead-link", title: "This address cannot be opened from here" }, ...nodes), close + 1);
    return true;
  }

  #bareUrl() {
    URL_START.lastIndex = this.#at;
    if (this.isInLink || /[A-Za-z0-9]/.test(this.text[this.#at - 1] ?? " ") || !URL_START.test(this.text)) return false;
    URL_REST.lastIndex = this.#at;
    const address = URL_REST.exec(this.text)?.[0].replace(/[.,;:!?*_~)\]]+$/, "");
    const url = address && safeUrl(address);
    if (!url) return false;
    this.#add(anchor(url, [address]), this.#at + address.length);
    return true;
  }

  #add(node, end) {
    this.#flush();
    this.#nodes.push(node);
    this.#at = end;
  }

  #flush() {
    if (this.#plain) this.#nodes.push(this.#plain);
    this.#plain = "";
  }
}

const ADDRESS_LENGTH_MAX = 2048;

function closingParenthesis(text, from) {
  let depth = 0;
  const end = Math.min(text.length, from + ADDRESS_LENGTH_MAX);
  for (let at = from; at < end && text[at] !== "\n"; at += 1) {
    if (text[at] === "(") depth += 1;
    if (text[at] === ")" && depth-- === 0) return at;
  }
  return -1;
}

/** Only the web: `javascript:`, `data:`, `file:` and relative addresses are none. */
function safeUrl(address) {
  if (!/^https?:\/\//i.test(address)) return null;
  try {
    return new URL(address).href;
  } catch {
    return null;
  }
}

function anchor(url, nodes) {
  return h("a", { href: url, target: "_blank", rel: "noopener noreferrer" }, ...nodes);
}
