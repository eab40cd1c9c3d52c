// Small parts that all views share.

import { html, nothing, render } from "./vendor/lit-html/lit-html.js";
import { repeat as keyed } from "./vendor/lit-html/directives/repeat.js";

export { html, nothing, render };

/** @type {<T>(items: T[], key: (item: T) => unknown, view: (item: T) => View) => View} */
export const repeat = keyed;

export const STATES = [
  "failed", "stuck", "running", "retrying", "queued", "malformed", "succeeded", "ignored",
  "unhandled",
];

/** @type {Record<string, string>} */
const MARKS = {
  failed: "!", stuck: "!", running: "▸", retrying: "↻", queued: "…", malformed: "?",
  succeeded: "✓", ignored: "·", unhandled: "–",
};

const COPY_NAMES = { curl: "Copy curl", cli: "CLI", pytest: "pytest", json: "JSON" };

/**
 * A state as a sign, a word and a colour.
 * @param {string} state
 */
export function stateMark(state) {
  return html`<span class="state is-${STATES.includes(state) ? state : "other"}"
    ><span class="mark" aria-hidden="true">${MARKS[state] ?? "·"}</span>${state}</span>`;
}

/**
 * `discussion.comment create`.
 * @param {Pick<Row, "scope" | "action">} row
 */
export function eventName(row) {
  return [row.scope, row.action].filter(Boolean).join(" ") || "(no event)";
}

/** @param {number} number @param {string} noun */
export function count(number, noun, plural = `${noun}s`) {
  return `${number.toLocaleString("en")} ${number === 1 ? noun : plural}`;
}

const CLOCK = new Intl.DateTimeFormat("en", {
  hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false,
});
const DAY = new Intl.DateTimeFormat("en", {
  day: "numeric", month: "short", hour: "2-digit", minute: "2-digit", hour12: false,
});
const FULL = new Intl.DateTimeFormat("en", {
  dateStyle: "medium", timeStyle: "long", hour12: false,
});

/**
 * The time since a moment, such as `12 s`; a date after a day.
 * @param {string} text @param {number} now
 */
export function age(text, now) {
  const seconds = Math.max(0, Math.round((now - Date.parse(text)) / 1000));
  if (Number.isNaN(seconds)) return "";
  if (seconds < 60) return `${seconds} s ago`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ago`;
  if (seconds < 86_400) return `${Math.floor(seconds / 3600)} h ago`;
  return DAY.format(Date.parse(text));
}

/** @param {string | null} text */
export function clock(text) {
  const time = Date.parse(text ?? "");
  return Number.isNaN(time) ? "" : CLOCK.format(time);
}

/**
 * A moment in local time, with the zone.
 * @param {string | null} text
 */
export function fullTime(text) {
  const time = Date.parse(text ?? "");
  return Number.isNaN(time) ? "" : FULL.format(time);
}

/**
 * The time between two moments, such as `8 ms`.
 * @param {string | null} start @param {string | null} end
 */
export function duration(start, end) {
  const milliseconds = Date.parse(end ?? "") - Date.parse(start ?? "");
  if (Number.isNaN(milliseconds)) return "";
  if (milliseconds < 1000) return `${Math.max(0, Math.round(milliseconds))} ms`;
  return `${(milliseconds / 1000).toFixed(milliseconds < 10_000 ? 1 : 0)} s`;
}

/** @param {number} size */
export function bytes(size) {
  if (size < 1000) return `${size} B`;
  return size < 1e6 ? `${(size / 1000).toFixed(1)} kB` : `${(size / 1e6).toFixed(1)} MB`;
}

/**
 * Text in which backquotes mark code.
 * @param {string} text @returns {View}
 */
export function prose(text) {
  const parts = text.split("`");
  if (parts.length % 2 === 0) return text;
  return parts.map((part, at) => (at % 2 ? html`<code>${part}</code>` : part));
}

/**
 * A link to the Hub. Text without a link for any other address.
 * @param {string} url @param {string} text
 */
export function hubLink(url, text) {
  let target = null;
  try {
    target = new URL(url);
  } catch {
    return text;
  }
  const isHub = target.origin === "https://huggingface.co" && !target.username && !target.password;
  if (!isHub) return text;
  return html`<a href=${target.href} target="_blank" rel="noopener noreferrer">${text}</a>`;
}

/**
 * Give the value of a changed field to a function.
 * @param {(value: string) => void} take
 */
export function onValue(take) {
  return (/** @type {Changed} */ event) => take(event.target.value);
}

/**
 * Buttons that copy a delivery.
 * @param {CopyKind[]} kinds @param {(kind: CopyKind) => void} copyAs
 */
export function copyButtons(kinds, copyAs) {
  return html`<span class="choice" role="group" aria-label="Copy as">${kinds.map((kind) => html`
    <button @click=${() => copyAs(kind)}>${COPY_NAMES[kind]}</button>`)}</span>`;
}

/**
 * Return true if the user types in a field.
 * @param {EventTarget | null} element
 */
export function isTyping(element) {
  if (!(element instanceof HTMLElement)) return false;
  if (element.matches("textarea, select") || element.isContentEditable) return true;
  return element.matches("input:not([type=checkbox], [type=radio])");
}

/**
 * Run a function after the last call, when `milliseconds` passed without another one.
 * @param {Action} run @param {number} milliseconds
 */
export function debounced(run, milliseconds) {
  let timer = 0;
  return () => {
    clearTimeout(timer);
    timer = setTimeout(run, milliseconds);
  };
}
