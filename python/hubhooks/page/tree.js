// A JSON value as a tree. Closed branches are not in the page, so long and deep values cost nothing.

import { html, nothing } from "./view.js";

const FIRST_ITEMS = 50;
const LONGEST_TEXT = 500;
const OPEN_DEPTH = 2;
const FEW = 12;
// The longest text that the server searches for.
const LONGEST_FILTER = 256;

export class Tree {
  /** @type {Map<string, boolean>} */
  #changed = new Map();
  /** @type {Map<string, number>} */
  #shown = new Map();
  #update;
  #actions;
  /** @type {(text: string) => boolean} */
  #canFilter = () => false;

  /** @param {Action} update @param {TreeActions} actions */
  constructor(update, actions) {
    this.#update = update;
    this.#actions = actions;
  }

  /**
   * Show a value.
   * @param {object} value
   * @param {(text: string) => boolean} canFilter whether the list can be filtered by a text
   */
  view(value, canFilter) {
    this.#canFilter = canFilter;
    return html`<ul class="tree">${this.#children(value, "", 0)}</ul>`;
  }

  /** @param {object} value @param {string} path @param {number} depth @returns {View} */
  #children(value, path, depth) {
    const entries = Object.entries(value);
    const most = this.#shown.get(path) ?? FIRST_ITEMS;
    const more = entries.length - most;
    return html`${entries.slice(0, most).map(([key, item]) => this.#node(key, item, path, depth))}
      ${more > 0 ? html`<li><button class="small" @click=${() => {
        this.#shown.set(path, most * 4);
        this.#update();
      }}>Show more (${more.toLocaleString("en")})</button></li>` : nothing}`;
  }

  /** @param {string} key @param {Json} value @param {string} parent @param {number} depth */
  #node(key, value, parent, depth) {
    const path = parent ? `${parent}.${key}` : key;
    /** @param {View} before @param {View} after */
    const line = (before, after) => html`<div class="line">${before}<span class="key">${key}</span> ${after} ${this.#tools(value, path)}</div>`;
    if (value === null || typeof value !== "object") {
      return html`<li>${line(nothing, this.#leaf(value, path))}</li>`;
    }
    const size = Object.keys(value).length;
    const isOpen = this.#changed.get(path) ?? (depth < OPEN_DEPTH && size <= FEW);
    const summary = Array.isArray(value) ? `[${size}]` : `{${size}}`;
    const toggle = size ? html`<button class="toggle" aria-expanded=${isOpen}
        aria-label=${`${path}, ${size} inside`} @click=${() => {
          this.#changed.set(path, !isOpen);
          this.#update();
        }}><span aria-hidden="true">${isOpen ? "▾" : "▸"}</span></button>` : nothing;
    return html`<li>${line(toggle, html`<span class="size">${summary}</span>`)}
      ${isOpen && size ? html`<ul>${this.#children(value, path, depth + 1)}</ul>` : nothing}</li>`;
  }

  /** @param {Json} value @param {string} path */
  #tools(value, path) {
    const isText = typeof value === "string" && value.trim() && value.length <= LONGEST_FILTER;
    return html`<span class="tools"><button class="small" aria-label=${`copy path ${path}`}
      @click=${() => this.#actions.copy(path, "the path")}>copy path</button>${isText && this.#canFilter(value) ? html`
      <button class="small" aria-label=${`filter by ${path}`}
        @click=${() => this.#actions.filter(value)}>filter</button>` : nothing}</span>`;
  }

  /** @param {Json} value @param {string} path */
  #leaf(value, path) {
    if (typeof value !== "string") return html`<span class="literal">${String(value)}</span>`;
    const isLong = value.length > LONGEST_TEXT && !this.#changed.get(path);
    const text = JSON.stringify(isLong ? value.slice(0, LONGEST_TEXT) : value);
    return html`<bdi class="text">${text}</bdi>${isLong ? html` <button class="small"
      @click=${() => {
        this.#changed.set(path, true);
        this.#update();
      }}>Show all ${value.length.toLocaleString("en")} characters</button>` : nothing}`;
  }
}
