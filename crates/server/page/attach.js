// Text files, read in the browser.

const SIZE_MAX = 1 << 20;

/** Reads a file as `{name, text}`. Throws an error whose message is for the user. */
export async function readTextFile(file) {
  const name = file.name.replace(/[`\r\n]/g, "_") || "untitled.txt";
  if (file.size > SIZE_MAX) {
    throw new Error(`${name} has ${(file.size / SIZE_MAX).toFixed(1)} MB; the most that can be attached is 1 MB.`);
  }
  let bytes;
  try {
    bytes = await file.arrayBuffer();
  } catch {
    throw new Error(`${name} cannot be read. A folder cannot be attached.`);
  }
  return { name, text: decode(name, bytes) };
}

function decode(name, bytes) {
  try {
    const text = new TextDecoder("utf-8", { fatal: true }).decode(bytes);
    if (!text.includes("\0")) return text;
  } catch {
    // Not UTF-8.
  }
  throw new Error(`${name} is not a text file in UTF-8; only text can be attached.`);
}

/** A message with its files as fenced blocks. A fence is longer than any run of backticks inside. */
export function withFiles(text, files) {
  return [...files.map(fenced), text].filter((part) => part !== "").join("\n\n");
}

function fenced({ name, text }) {
  const runs = text.match(/`{3,}/g) ?? [];
  const fence = "`".repeat(runs.reduce((most, run) => Math.max(most, run.length + 1), 3));
  return `File \`${name}\`:\n\n${fence}\n${text.replace(/\n$/, "")}\n${fence}`;
}
