// The page in a real browser. With `CUVIER_PAGE_URL` set a running server is driven, and only what does not depend
// on scripted answers is checked; without it, all is checked against the mock.
import assert from "node:assert/strict";
import { after, afterEach, before, beforeEach, describe, test } from "node:test";
import { chromium } from "playwright-core";
import { PROSE, startMock } from "./mock.mjs";

const REAL = process.env.CUVIER_PAGE_URL;
const scripted = { skip: REAL ? "depends on scripted answers" : false };
const DONE_MS = 60_000;

let browser;
let mock;
let url;
let context;
let page;
let complaints;
let strangers;

before(async () => {
  browser = await chromium.launch({
    executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
    args: ["--no-sandbox"],
  });
});

after(() => browser.close());

beforeEach(async () => {
  mock = REAL ? null : await startMock();
  url = REAL ?? mock.url;
  await open();
});

afterEach(async () => {
  await context.close();
  mock?.close();
  assert.deepEqual(complaints, [], "the console is silent");
  assert.deepEqual(strangers, [], "no other origin is asked");
});

/** A page of its own browser profile, watched for errors and for requests to other origins. */
async function open(options = {}) {
  await context?.close().catch(() => {});
  context = await browser.newContext({ viewport: { width: 1100, height: 800 }, ...options });
  await context.grantPermissions(["clipboard-read", "clipboard-write"], { origin: new URL(url).origin });
  page = await context.newPage();
  [complaints, strangers] = [[], []];
  page.on("pageerror", (error) => complaints.push(error.stack));
  page.on("console", (message) => isComplaint(message) && complaints.push(message.text()));
  page.on("request", (request) => {
    if (!request.url().startsWith(url.replace(/\/$/, "")) && !request.url().startsWith("data:")) strangers.push(request.url());
  });
  await page.goto(url);
}

/** The browser itself reports every answer that is not 200; those are asked for here. */
function isComplaint(message) {
  return ["error", "warning"].includes(message.type()) && !/status of (401|429|500)|ERR_(INCOMPLETE|EMPTY|CONNECTION|FAILED)/.test(message.text());
}

async function send(text) {
  await page.fill("#box", text);
  await page.press("#box", "Enter");
}

const answers = () => page.locator(".answer");
const lastAnswer = () => answers().last();
const done = () => page.locator("#log[aria-busy=false] .answer:last-child .stats:not(:empty)").waitFor({ timeout: DONE_MS });
const stored = () => page.evaluate(() => JSON.parse(localStorage.getItem("cuvier.conversation")));

async function ask(text) {
  await send(text);
  await done();
}

const tryAgain = () => page.getByRole("button", { name: "Try again" }).click();

async function widths() {
  return page.evaluate(() => {
    const all = [document.documentElement, document.body, document.querySelector("#scroller")];
    return all.map((element) => element.scrollWidth - element.clientWidth);
  });
}

describe("any server", () => {
  test("names its model and offers three prompts", async () => {
    await page.waitForSelector("#prompts li:nth-child(3)");
    assert.notEqual(await page.textContent("#model"), "…");
    assert.match(await page.textContent("#context"), /tokens of context/);
  });

  test("an example prompt is answered, with its figures", async () => {
    await page.click("#prompts button");
    await done();
    assert.notEqual(await lastAnswer().locator(".prose").textContent(), "");
    assert.match(await lastAnswer().locator(".stats").textContent(), /\d+ tokens?.* · first after .* · prompt \d+/);
  });

  test("an answer is kept over a reload, and so is a draft", async () => {
    await ask("What is 27 + 58?");
    const said = await lastAnswer().locator(".prose").textContent();
    await page.fill("#box", "half a thought");
    await page.reload();
    assert.equal(await lastAnswer().locator(".prose").textContent(), said);
    assert.equal(await page.inputValue("#box"), "half a thought");
  });

  test("thinking is folded and can be opened", async () => {
    await page.check("#expert");
    await ask("What is 27 + 58?");
    const thinking = lastAnswer().locator(".thinking");
    assert.equal(await thinking.getAttribute("open"), null);
    assert.match(await thinking.locator(".facts").textContent(), /[\d.]+\u00a0s · \d+ tokens?/);
    await thinking.locator("summary").click();
    assert.ok(await thinking.locator(".thoughts").isVisible());
  });

  test("fast does not think", async () => {
    await ask("What is 27 + 58?");
    assert.ok(await lastAnswer().locator(".thinking").isHidden());
  });

  test("answering again replaces the answer, and the focus is not lost", async () => {
    await ask("What is 27 + 58?");
    await page.focus("[aria-label='Answer again']");
    await page.keyboard.press("Enter");
    await done();
    assert.equal(await page.evaluate(() => document.activeElement.id), "box");
    assert.equal(await answers().count(), 1);
  });

  test("an edited message truncates the conversation there", async () => {
    await ask("What is 27 + 58?");
    await ask("Who are you?");
    await page.fill("#box", "a draft");
    await page.locator(".user").first().hover();
    await page.locator("[aria-label='Edit and send again']").first().click();
    assert.equal(await page.inputValue("#box"), "What is 27 + 58?");
    await ask("What is 11 + 22?");
    assert.deepEqual(await page.locator(".said").allTextContents(), ["What is 11 + 22?"]);
    assert.equal(await page.inputValue("#box"), "a draft");
  });

  test("a new conversation is empty, also after a reload", async () => {
    await ask("What is 27 + 58?");
    await page.click("#new");
    await page.reload();
    assert.equal(await answers().count(), 0);
    assert.ok(await page.isVisible("#empty"));
  });

  test("all of it goes by keyboard", async () => {
    await page.locator("body").click({ position: { x: 5, y: 300 } });
    await page.keyboard.press("/");
    await page.keyboard.type("What is");
    await page.keyboard.press("Shift+Enter");
    await page.keyboard.type("27 + 58?");
    await page.keyboard.press("Enter");
    await done();
    assert.equal(await page.locator(".said p").textContent(), "What is\n27 + 58?");
    for (const id of ["attach", "fast"]) {
      await page.keyboard.press("Tab");
      assert.equal(await page.evaluate(() => document.activeElement.id), id);
    }
    await page.keyboard.press("ArrowRight");
    assert.ok(await page.isChecked("#expert"));
    await page.keyboard.press("Tab");
    assert.equal(await page.evaluate(() => document.activeElement.id), "effort");
  });

  test("what has the focus shows it", async () => {
    await page.focus("#new");
    for (const id of ["open-advanced", "theme"]) {
      await page.focus(`#${id}`);
      await page.keyboard.press("Shift+Tab");
      await page.keyboard.press("Tab");
      const outline = await page.evaluate(() => getComputedStyle(document.activeElement).outlineStyle);
      assert.equal(outline, "solid", id);
    }
  });

  test("dark follows the system, until a person chooses", async () => {
    const scheme = () => page.evaluate(() => getComputedStyle(document.documentElement).colorScheme);
    await open({ colorScheme: "dark" });
    assert.equal(await scheme(), "dark");
    await page.click("#theme");
    assert.equal(await scheme(), "light");
    await page.reload();
    assert.equal(await scheme(), "light");
  });

  test("nothing is wider than a small phone", async () => {
    await open({ viewport: { width: 320, height: 560 }, hasTouch: true, isMobile: true });
    await page.waitForSelector("#prompts li");
    assert.deepEqual(await widths(), [0, 0, 0]);
    await page.check("#expert");
    await ask("What is 27 + 58?");
    assert.deepEqual(await widths(), [0, 0, 0]);
    const right = await page.locator("#send").evaluate((button) => button.getBoundingClientRect().right);
    assert.ok(right <= 320);
  });

  test("a text file is sent as a fenced block, anything else is refused in words", async () => {
    const file = (name, text) => page.setInputFiles("#file-input", { name, mimeType: "text/plain", buffer: Buffer.from(text) });
    await file("whale.bin", "a\0b");
    await page.waitForSelector("#complaint:has-text('whale.bin is not a text file')");
    await file("long.txt", "x".repeat((1 << 20) + 1));
    await page.waitForSelector("#complaint:has-text('the most that can be attached is 1 MB')");
    await file("notes.md", "one\n```\ntwo\n```\n");
    await page.waitForSelector("#chips:has-text('notes.md')");
    await ask("What is 27 + 58?");
    assert.equal(await page.locator(".said .chip").textContent(), "notes.md");
    if (mock) assert.equal(mock.requests.at(-1).messages.at(-1).content, "File `notes.md`:\n\n````\none\n```\ntwo\n```\n````\n\nWhat is 27 + 58?");
  });

  test("a page without storage works", async () => {
    await context.addInitScript(() => {
      for (const name of ["localStorage", "sessionStorage"]) {
        Object.defineProperty(window, name, { get: () => { throw new DOMException("no", "SecurityError"); } });
      }
    });
    await page.reload();
    await ask("What is 27 + 58?");
    assert.equal(await answers().count(), 1);
  });
});

describe("scripted answers", scripted, () => {
  test("a request says what the page is set to", async () => {
    await page.check("#expert");
    await page.selectOption("#effort", "max");
    await page.click("#open-advanced");
    await page.fill("#system", "Be brief.");
    await page.fill("#temperature", "0.5");
    await page.fill("#max-tokens", "99");
    await page.click(".sheet summary");
    await page.fill("#tools", '[{"name": "weather"}]');
    await page.keyboard.press("Escape");
    await page.reload();
    await ask("Hello");
    assert.deepEqual(mock.requests.at(-1), {
      model: "calf",
      messages: [{ role: "system", content: "Be brief." }, { role: "user", content: "Hello" }],
      stream: true,
      stream_options: { include_usage: true },
      thinking: { type: "enabled" },
      reasoning_effort: "max",
      temperature: 0.5,
      max_tokens: 99,
      tools: [{ type: "function", function: { name: "weather" } }],
    });
  });

  for (const newline of ["\n", "\r\n", "\r"]) {
    test(`an answer in pieces is whole, lines ending in ${JSON.stringify(newline)}`, async () => {
      mock.newline = newline;
      await ask("Some prose please");
      assert.equal((await stored()).messages[1].content, PROSE.trimEnd());
      assert.match(await lastAnswer().locator(".prose").textContent(), /Done — 深海 🐋\./);
    });
  }

  test("Markdown becomes what it means", async () => {
    await ask("Some prose please");
    const prose = lastAnswer().locator(".prose");
    const shape = await prose.evaluate((root) => [...root.children].map((child) => child.tagName).join(" "));
    assert.equal(shape, "H4 P OL BLOCKQUOTE DIV FIGURE P");
    assert.equal(await prose.locator("ol > li:nth-child(2) ul > li").count(), 2);
    assert.deepEqual(await prose.locator("th").allTextContents(), ["depth", "light", "pressure"]);
    const link = prose.locator("a");
    assert.equal(await link.getAttribute("rel"), "noopener noreferrer");
    assert.equal(await link.getAttribute("target"), "_blank");
    await prose.locator("[aria-label='Copy code']").click();
    assert.match(await page.evaluate(() => navigator.clipboard.readText()), /^\/\/\/ Metres[^]*\n}$/);
    await page.click("[aria-label='Copy answer']");
    assert.equal(await page.evaluate(() => navigator.clipboard.readText()), PROSE.trimEnd());
  });

  test("a text that grows looks like one that came whole", async () => {
    const isSame = await page.evaluate(async (text) => {
      const { MarkdownView } = await import("/page/markdown.js");
      const whole = document.createElement("div");
      const grown = document.createElement("div");
      new MarkdownView(whole).update(text);
      const view = new MarkdownView(grown);
      const cuts = [];
      for (let end = 0; end <= text.length; end += 1) {
        view.update(text.slice(0, end));
        const fresh = document.createElement("div");
        new MarkdownView(fresh).update(text.slice(0, end));
        if (!fresh.isEqualNode(grown)) cuts.push(text.slice(0, end).slice(-30));
      }
      return { isWhole: whole.isEqualNode(grown), cuts };
    }, `${PROSE}\nwords\n-5 degrees\n\n- a\n\n  b\nc\n\na | b\n--|--\n1 | 2\n\n1986. A year\n2. two\n\n> q\n\n~~~\nx\n`);
    assert.deepEqual(isSame, { isWhole: true, cuts: [] });
  });

  test("hostile text is shown in little time", async () => {
    const ms = await page.evaluate(async () => {
      const { MarkdownView } = await import("/page/markdown.js");
      const start = performance.now();
      for (const bit of ["*a ", "**", "`", "[", "[a](", "_a", "> ", "- ", "|-", "~~a ", "\\", "```\n", "1. ", "http://", "*a_b`["]) {
        new MarkdownView(document.createElement("div")).update(bit.repeat(20_000));
      }
      return performance.now() - start;
    });
    assert.ok(ms < 5000, `${ms} ms`);
  });

  test("a long answer does not slow down as it grows", async () => {
    const ms = await page.evaluate(async () => {
      const { MarkdownView } = await import("/page/markdown.js");
      const view = new MarkdownView(document.createElement("div"));
      let text = "";
      const start = performance.now();
      for (let at = 0; at < 4000; at += 1) view.update((text += `Paragraph ${at} with **bold** words.\n\n`));
      return performance.now() - start;
    });
    assert.ok(ms < 3000, `${ms} ms`);
  });

  test("markup in an answer is text, and no address but the web's is a link", async () => {
    await ask("attack me");
    assert.equal(await page.evaluate(() => window.hacked), undefined);
    assert.equal(await lastAnswer().locator(".prose :is(img, script, svg:not(.icon), iframe)").count(), 0);
    const links = await lastAnswer().locator("a").evaluateAll((all) => all.map((a) => a.protocol));
    assert.deepEqual(new Set(links), new Set(["https:"]));
    assert.match(await lastAnswer().locator(".prose").textContent(), /<img src=x onerror="window.hacked=1">/);
  });

  test("thinking can be opened while it streams", async () => {
    await page.check("#expert");
    await send("A long thought: 17+25=");
    await page.waitForSelector(".thinking.is-live:not([open])");
    await page.click(".thinking summary");
    const before = await page.textContent(".thoughts");
    await done();
    assert.ok((await page.textContent(".thoughts")).length > before.length);
    assert.ok(await page.isVisible(".thoughts"));
    assert.match(await page.textContent(".thinking .facts"), /\d\u00a0s · \d+ tokens/);
  });

  test("Esc stops, and what came stays", async () => {
    await send("endless");
    await page.waitForSelector(".prose:has-text('word3')");
    await page.keyboard.press("Escape");
    await page.waitForSelector(".notice:has-text('Stopped.')");
    assert.match(await page.textContent(".prose"), /^word0 word1/);
    await send("What is 1 + 2?");
    await page.waitForSelector(".answer:last-child .prose:has-text('1 + 2 = 3.')");
  });

  test("the button stops, too", async () => {
    await send("endless");
    await page.waitForSelector(".prose:has-text('word3')");
    await page.click("[aria-label=Stop]");
    await page.waitForSelector(".notice:has-text('Stopped.')");
  });

  test("a reload in the middle keeps what came", async () => {
    await send("endless");
    await page.waitForSelector(".prose:has-text('word9')");
    await page.reload();
    assert.match(await page.textContent(".prose"), /^word0/);
    assert.match(await page.textContent(".notice"), /The page was left/);
  });

  test("who scrolls up is left there", async () => {
    await send("endless");
    await page.waitForSelector(".prose:has-text('word600')", { timeout: DONE_MS });
    await page.evaluate(() => scroller.scrollTo(0, 0));
    await page.waitForTimeout(400);
    assert.equal(await page.evaluate(() => scroller.scrollTop), 0);
    await page.click("#to-end");
    await page.waitForTimeout(200);
    assert.ok(await page.evaluate(() => scroller.scrollTop > 0));
  });

  test("how far the prompt is read is shown", async () => {
    await send("prefill");
    await page.waitForSelector(".waiting:has-text('of 4,096 tokens')");
    assert.match(await page.textContent(".waiting span:nth-child(2)"), /^Reading the prompt, [\d,]+ of 4,096 tokens$/);
    await done();
    assert.ok(await page.isHidden(".waiting"));
  });

  test("calls are shown, and their results go back", async () => {
    await ask("Call a tool");
    assert.deepEqual(await page.locator(".call header code").allTextContents(), ["weather", "tide"]);
    assert.match(await page.locator(".call pre").first().textContent(), /\{\n  "place": "Trieste",\n  "days": \[\n    1,/);
    await page.locator(".reply textarea").first().fill("Bora");
    await page.click("text=Send results");
    await page.waitForSelector(".answer:last-child .prose:has-text('The tool said')");
    const [call, first, second] = mock.requests.at(-1).messages.slice(1);
    assert.equal(call.tool_calls[0].function.arguments, '{"place":"Trieste","days":[1,2],"units":{"wind":"m/s"}}');
    assert.deepEqual(first, { role: "tool", tool_call_id: "call_0a", content: "Bora" });
    assert.equal(second.tool_call_id, "call_1a");
  });

  test("calls that nobody answered get a result, so that the talk can go on", async () => {
    await ask("Call a tool");
    await ask("Never mind. What is 1 + 2?");
    const roles = mock.requests.at(-1).messages.map((message) => message.role);
    assert.deepEqual(roles, ["user", "assistant", "tool", "tool", "user"]);
  });

  test("an error in the middle is said in its place, and can be tried again", async () => {
    await ask("Please break");
    assert.match(await page.textContent(".prose"), /This was going well/);
    assert.match(await page.textContent(".notice"), /The model ran out of memory\./);
    await tryAgain();
    await page.waitForSelector(".notice:has-text('memory')");
    assert.equal(mock.requests.length, 2);
  });

  test("a connection that breaks off is said in words", async () => {
    await send("Please drop");
    // There may be no figures to wait for: what was sent just before the break may not have come.
    await page.waitForSelector(".notice:has-text('broke off before the answer was complete')", { timeout: DONE_MS });
    await page.waitForSelector("#log[aria-busy=false]");
  });

  test("a refused message goes back into the box, and can be sent from there", async () => {
    mock.failures.push({ status: 429, message: "8 requests are under way or waiting; try again" });
    await send("What is 27 + 58?");
    await page.waitForSelector(".notice:has-text('8 requests are under way')");
    assert.equal(await page.inputValue("#box"), "What is 27 + 58?");
    await tryAgain();
    await done();
    assert.equal(await page.locator(".said").count(), 1);
    assert.equal(await page.inputValue("#box"), "");
    assert.equal(await page.locator(".notice:visible").count(), 0);
  });

  test("a refused edit loses neither the edit nor what it would have replaced", async () => {
    await ask("What is 27 + 58?");
    mock.failures.push({ status: 500, message: "the server failed" });
    await page.locator(".user").hover();
    await page.click("[aria-label='Edit and send again']");
    await send("What is 1 + 2?");
    await page.waitForSelector(".notice:has-text('The server failed.')");
    assert.equal(await page.inputValue("#box"), "What is 1 + 2?");
    assert.match(await page.textContent(".prose"), /= 85/);
    await page.keyboard.press("Escape");
    assert.equal(await page.inputValue("#box"), "");
  });

  test("a server that is gone is said in words, and found again", async () => {
    await page.waitForSelector("#prompts li");
    await page.route("**/v1/**", (route) => route.abort());
    await send("What is 27 + 58?");
    await page.waitForSelector(".notice:has-text('The server cannot be reached')");
    await page.unroute("**/v1/**");
    await tryAgain();
    await done();
  });

  test("a key is asked for, sent, and forgotten with the tab", async () => {
    mock.key = "secret";
    await page.reload();
    await page.fill("#key", "wrong");
    await page.press("#key", "Enter");
    await page.waitForSelector("#key-dialog[open]");
    await page.fill("#key", "secret");
    await page.press("#key", "Enter");
    await page.waitForSelector("#model:has-text('calf')");
    await ask("What is 27 + 58?");
    const places = await page.evaluate(() => [JSON.stringify({ ...localStorage }), sessionStorage.getItem("cuvier.key")]);
    assert.ok(!places[0].includes("secret"));
    assert.equal(places[1], "secret");
  });

  test("files are dropped and pasted", async () => {
    for (const [type, target, field] of [["drop", "body", "dataTransfer"], ["paste", "#box", "clipboardData"]]) {
      await page.evaluate(({ type, target, field }) => {
        const transfer = new DataTransfer();
        transfer.items.add(new File(["text"], `${type}.txt`));
        const options = { bubbles: true, cancelable: true, [field]: transfer };
        const event = type === "drop" ? new DragEvent(type, options) : new ClipboardEvent(type, options);
        document.querySelector(target).dispatchEvent(event);
      }, { type, target, field });
      await page.waitForSelector(`#chips:has-text('${type}.txt')`);
    }
    await page.click("[aria-label='Remove drop.txt']");
    await ask("");
    assert.equal(mock.requests.at(-1).messages[0].content, "File `paste.txt`:\n\n```\ntext\n```");
  });

  test("what is kept is bounded, and begins with a message of the user", async () => {
    const kept = await page.evaluate(async () => {
      const { loadConversation, saveConversation } = await import("/page/store.js");
      const user = (text) => ({ role: "user", text, files: [] });
      const messages = Array.from({ length: 30 }, (_, n) => user(String(n).padEnd(100_000, "x")));
      saveConversation({ messages, isCut: false, draft: "d" });
      const { isCut, draft, messages: left } = loadConversation();
      return { isCut, draft, count: left.length, last: left.at(-1).text.slice(0, 2) };
    });
    assert.deepEqual(kept, { isCut: true, draft: "d", count: 19, last: "29" });
  });

  test("another model than the calf is no toy", async () => {
    await page.waitForSelector("#toy:visible");
    mock.model = "DeepSeek-V4-Flash";
    mock.contextLength = 1_048_576;
    await page.reload();
    await page.waitForSelector("#model:has-text('Flash')");
    assert.ok(await page.isHidden("#toy"));
    assert.deepEqual(await page.locator(".soundings li").allTextContents(), ["100", "1,000", "10K", "100K", "1M"]);
  });
});
