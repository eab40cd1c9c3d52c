// A delivery as a command or a test. No secret is in any of them.

// Other values have no text that is Python code.
const LITERAL = /^(?:'[^'\\\n]*'|"[^"\\\n]*"|-?\d+(?:\.\d+)?)$/;
const CONTROL = /[\0-\x08\x0b-\x1f\x7f]/g;

/**
 * The body as text, as it can be sent again.
 * @param {Json} body
 */
export function bodyText(body) {
  return typeof body === "string" ? body : JSON.stringify(body, null, 2);
}

/** @param {string} text */
function quoted(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

/** @param {Json} body */
function here(body) {
  const text = bodyText(body).replace(CONTROL, "");
  let mark = "JSON";
  while (text.split("\n").includes(mark)) mark += "_";
  return `<<'${mark}'\n${text}\n${mark}\n`;
}

/** @param {string[] | undefined} urls */
function target(urls) {
  return urls?.length ? quoted(urls[0]) : '"$WEBHOOK_URL"';
}

/** @param {Json} body @param {string[] | undefined} urls */
export function asCurl(body, urls) {
  return (
    `curl -X POST ${target(urls)} -H 'Content-Type: application/json' ` +
    `-H "X-Webhook-Secret: $WEBHOOK_SECRET" --data-binary @- ${here(body)}`
  );
}

/** @param {Json} body @param {string[] | undefined} urls */
export function asCli(body, urls) {
  return `hubhooks send ${target(urls)} --file - ${here(body)}`;
}

/**
 * A JSON value as a Python literal.
 * @param {Json | undefined} value @returns {string}
 */
function python(value, indent = "    ") {
  if (value === null || value === undefined) return "None";
  if (value === true) return "True";
  if (value === false) return "False";
  if (typeof value !== "object") return JSON.stringify(value);
  const inner = `${indent}    `;
  if (Array.isArray(value)) {
    if (!value.length) return "[]";
    return `[\n${value.map((item) => `${inner}${python(item, inner)},\n`).join("")}${indent}]`;
  }
  const pairs = Object.entries(value);
  if (!pairs.length) return "{}";
  const lines = pairs.map(([key, item]) => `${inner}${JSON.stringify(key)}: ${python(item, inner)},\n`);
  return `{\n${lines.join("")}${indent}}`;
}

/**
 * The module and the name of the app's hooks: `bot.py` and `bot:hooks` are targets.
 * @param {string | undefined} name
 */
function hooksOf(name) {
  const [path, named = "hooks"] = (name || "app:hooks").split(":");
  // In a FastAPI app, `app` is not the object that has the handlers.
  const variable = named === "app" ? "hooks" : named;
  const module = path.replace(/\.py$/, "").replaceAll(/[\\/]/g, ".").replace(/^\.+/, "");
  const isPlain = /^[\w.]+$/.test(module) && /^\w+$/.test(variable);
  return isPlain ? [module, variable] : ["app", "hooks"];
}

/** @param {string} text */
function hash(text) {
  let number = 0;
  for (const letter of text) number = (Math.imul(number, 31) + (letter.codePointAt(0) ?? 0)) >>> 0;
  return number.toString(16).padStart(8, "0").slice(-6);
}

/**
 * @param {Json} body
 * @param {{ target?: string, scope?: string, action?: string,
 *   handlers: { name: string, value?: string }[] }} facts the value is what a handler returned,
 *   in Python
 */
export function asPytest(body, { target: name, scope, action, handlers }) {
  const [module, variable] = hooksOf(name);
  // Two tests of one event need two names.
  const test = [scope ?? "delivery", action, hash(bodyText(body))].filter(Boolean).join("_").replaceAll(/\W/g, "_");
  const value = typeof body === "string" ? `${JSON.stringify(body)}.encode()` : python(body);
  const checks = handlers.map(({ name: handler, value: returned = "" }) => (LITERAL.test(returned)
    ? `    assert result[${JSON.stringify(handler)}].value == ${returned}\n`
    : `    assert ${JSON.stringify(handler)} in result.handlers\n`));
  return (
    `from ${module} import ${variable}\nfrom hubhooks.testing import TestClient\n\n\n` +
    `def test_${test}() -> None:\n    body = ${value}\n` +
    `    result = TestClient(${variable}).send(body)\n` +
    `${checks.join("") || "    assert not result.handlers\n"}`
  );
}
