// Pictures of every state of the page, to be looked at by a person: `node shots.mjs [FOLDER]`.
import { mkdir } from "node:fs/promises";
import { chromium } from "playwright-core";
import { startMock } from "./mock.mjs";

const FOLDER = process.argv[2] ?? "shots";
const SIZES = { desktop: { width: 1280, height: 860 }, phone: { width: 360, height: 740 } };
const STATES = {
  empty: async () => {},
  answer: async (page) => {
    await send(page, "What is 27 + 58?");
    await page.waitForSelector(".stats:has-text('first')");
    await send(page, "Some prose please, about whales");
  },
  thinking: async (page) => {
    await page.check("#expert");
    await send(page, "A long thought: 17+25=");
    await page.waitForSelector(".thinking.is-live");
    await page.click(".thinking summary");
    await page.waitForTimeout(900);
  },
  prefill: async (page) => {
    await send(page, "prefill");
    await page.waitForTimeout(800);
  },
  call: async (page) => send(page, "Call a tool"),
  error: async (page) => send(page, "Please break"),
  refused: async (page, mock) => {
    mock.failures.push({ status: 429, message: "8 requests are under way or waiting; try again" });
    await send(page, "What is 27 + 58?");
  },
  edit: async (page) => {
    await send(page, "What is 27 + 58?");
    await page.waitForSelector(".stats:has-text('first')");
    await page.setInputFiles("#file-input", { name: "log-of-the-dive.txt", mimeType: "text/plain", buffer: Buffer.from("212 m\n") });
    await page.click(".user .actions button");
  },
  advanced: async (page) => {
    await page.click("#open-advanced");
    await page.click(".sheet summary");
    await page.fill("#tools", "[{]");
  },
  key: async (page, mock) => {
    mock.key = "secret";
    await page.reload();
    await page.waitForSelector("#key-dialog[open]");
  },
};

async function send(page, text) {
  await page.fill("#box", text);
  await page.press("#box", "Enter");
}

const browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args: ["--no-sandbox"] });
await mkdir(FOLDER, { recursive: true });
for (const [size, viewport] of Object.entries(SIZES)) {
  for (const colorScheme of ["light", "dark"]) {
    for (const [state, arrange] of Object.entries(STATES)) {
      const mock = await startMock();
      const page = await browser.newPage({ viewport, colorScheme, hasTouch: size === "phone" });
      page.on("console", (message) => message.type() === "error" && console.log(state, message.text()));
      page.on("pageerror", (error) => console.log(state, error.stack));
      await page.goto(mock.url);
      await page.waitForSelector("#prompts li");
      await arrange(page, mock);
      await page.waitForTimeout(500);
      await page.screenshot({ path: `${FOLDER}/${state}-${size}-${colorScheme}.png` });
      await page.close();
      mock.close();
    }
  }
}
await browser.close();
