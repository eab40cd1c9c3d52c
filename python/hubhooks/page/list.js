// The list of deliveries: what is loaded, what matches the filter, and its view.

import { STATES, age, count, debounced, eventName, fullTime, html, nothing, onValue, prose, repeat, stateMark } from "./view.js";

const PAGE = 100;
// Live arrivals push the oldest rows out of the list; "Load older" brings them back.
const MOST_LIVE = 500;
const TYPING_PAUSE = 60;

export class DeliveryList {
  /** @type {Row[]} */
  rows = [];
  total = 0;
  /** @type {string | null} */
  before = null;
  /** @type {Filter} */
  filter = { q: "", state: "", handler: "" };
  /** The id of the row that the Tab key reaches. */
  active = "";
  /** The id of the delivery that is open. */
  selected = "";
  isLoading = true;
  /** True if the loaded rows are those of a filter, not all. */
  isPart = false;
  error = "";
  #api;
  #update;
  /** @type {AbortController | null} */
  #request = null;
  #most = MOST_LIVE;
  // Rows of the stream that arrive during a request may be newer than its response.
  /** @type {Map<string, Row>} */
  #arrived = new Map();

  /** @param {Api} api @param {Action} update */
  constructor(api, update) {
    this.#api = api;
    this.#update = update;
    this.loadSoon = debounced(() => this.load(), TYPING_PAUSE);
  }

  get isFiltered() {
    return Object.values(this.filter).some(Boolean);
  }

  get activeRow() {
    return this.rows.find((row) => row.id === this.active) ?? this.rows[0];
  }

  /** Load the first page. */
  async load() {
    this.#request?.abort();
    const request = new AbortController();
    this.#request = request;
    this.#arrived.clear();
    this.isLoading = true;
    try {
      const page = await this.#api.request("deliveries", {
        query: { ...this.filter, limit: PAGE }, signal: request.signal,
      });
      if (this.#request !== request) return;
      this.#request = null;
      this.rows = page.deliveries;
      this.before = page.before;
      this.total = page.total;
      this.isPart = this.isFiltered;
      this.#most = MOST_LIVE;
      this.error = "";
      const arrived = [...this.#arrived.values()];
      this.#arrived.clear();
      for (const row of arrived) this.apply(row);
    } catch (error) {
      if (this.#request !== request) return;
      this.#request = null;
      this.error = error.message;
    }
    this.isLoading = false;
    this.#update();
  }

  async loadOlder() {
    if (!this.before || this.isLoading) return;
    this.isLoading = true;
    this.#update();
    const { before } = this;
    try {
      /** @type {{ deliveries: Row[], before: string | null }} */
      const page = await this.#api.request("deliveries", {
        query: { ...this.filter, limit: PAGE, before },
      });
      if (this.before === before) {
        const known = new Set(this.rows.map((row) => row.id));
        this.rows = [...this.rows, ...page.deliveries.filter((row) => !known.has(row.id))];
        this.before = page.before;
        this.#most = Math.max(MOST_LIVE, this.rows.length);
      }
    } catch (error) {
      this.error = error.message;
    }
    this.isLoading = false;
    this.#update();
  }

  /**
   * Take a new or changed delivery of the stream. Return true if it is new in the list.
   * @param {Row} row
   */
  apply(row) {
    if (this.#request) this.#arrived.set(row.id, row);
    const at = this.rows.findIndex((one) => one.id === row.id);
    const isMatch = matches(row, this.filter);
    if (at >= 0) {
      const before = this.rows[at];
      // The row in use stays, although it does not match any more.
      const isInUse = row.id === this.active || row.id === this.selected;
      if (isMatch || isInUse) {
        this.rows = this.rows.with(at, row);
        // As in the response of the server, a replayed delivery is the first one.
        if (isReplayed(before, row)) this.rows = [row, ...this.rows.toSpliced(at, 1)];
      } else {
        this.rows = this.rows.toSpliced(at, 1);
        this.total = Math.max(0, this.total - 1);
      }
      return false;
    }
    if (!isMatch) return false;
    const time = Date.parse(row.received_at);
    const place = this.rows.findIndex((one) => Date.parse(one.received_at) <= time);
    if (place < 0 && this.before) return false;
    this.rows = this.rows.toSpliced(place < 0 ? this.rows.length : place, 0, row);
    this.total += 1;
    this.#trim();
    return true;
  }

  #trim() {
    while (this.rows.length > this.#most) {
      const [next, last] = this.rows.slice(-2);
      if (last.id === this.active || last.id === this.selected) return;
      this.rows = this.rows.slice(0, -1);
      this.before = next.id;
    }
  }

  /** @param {Partial<Filter>} change */
  setFilter(change) {
    Object.assign(this.filter, change);
    // The response to the old filter would be shown as that of the new one.
    this.#request?.abort();
    this.#request = null;
    this.loadSoon();
    this.#update();
  }

  /**
   * Move the focus by a number of rows.
   * @param {number} step
   */
  move(step) {
    if (!this.rows.length) return;
    const at = this.rows.findIndex((row) => row.id === this.active);
    const next = at < 0 ? 0 : Math.min(Math.max(at + step, 0), this.rows.length - 1);
    this.focus(this.rows[next].id);
  }

  /** @param {string} id */
  focus(id) {
    this.active = id;
    this.#update();
    queueMicrotask(() => this.element(id)?.focus());
  }

  /**
   * Remember the row that has the focus.
   * @param {string} id
   */
  focused(id) {
    if (this.active === id) return;
    this.active = id;
    this.#update();
  }

  /** @param {string} id @returns {HTMLElement | null} */
  element(id) {
    return document.querySelector(`#rows > [data-id="${CSS.escape(id)}"]`);
  }
}

/**
 * Return true if a filter finds a row, as the server does.
 * @param {Row} row @param {Filter} filter
 */
export function matches(row, { q, state, handler }) {
  if (state && row.state !== state) return false;
  if (handler && !row.runs.some((run) => run.handler === handler)) return false;
  const words = q.toLowerCase().split(/\s+/).filter(Boolean);
  if (!words.length) return true;
  const fields = [
    row.id, row.state, row.scope, row.action, row.repo, row.reason,
    ...row.runs.flatMap((run) => [run.handler, run.error]),
  ].map((field) => String(field ?? "").toLowerCase());
  fields.push(`${row.scope}.${row.action}`.toLowerCase());
  return words.every((word) => fields.some((field) => field.includes(word)));
}

const OPEN = ["queued", "running", "retrying", "stuck"];

/**
 * Return true if a Replay changed a row.
 * @param {Row} before @param {Row} row
 */
function isReplayed(before, row) {
  if (OPEN.includes(before.state)) return false;
  const attempts = (/** @type {Row} */ one) => one.runs.reduce((sum, run) => sum + run.attempts, 0);
  return OPEN.includes(row.state) || attempts(row) > attempts(before);
}

/**
 * The handlers of a delivery; the state of each one is shown if they differ.
 * @param {Row} row
 */
function handlersText(row) {
  const isSame = row.runs.every((run) => run.state === row.state);
  return row.runs.map((run) => (isSame ? run.handler : `${run.handler}: ${run.state}`)).join(", ");
}

/**
 * When a delivery was received, or replayed: a replayed one is listed as a new one.
 * @param {Row} row
 */
function shownAt(row) {
  const started = row.is_replay ? row.runs.map((run) => run.started_at ?? "") : [];
  return [row.received_at, ...started].reduce((a, b) => (Date.parse(b) > Date.parse(a) ? b : a));
}

/** @param {Row} row @param {ListOptions} options */
function rowView(row, { list, now, open }) {
  const error = row.runs.find((run) => run.error)?.error ?? row.reason;
  const isActive = row.id === (list.activeRow?.id ?? "");
  const at = shownAt(row);
  return html`<li role="option" data-id=${row.id} tabindex=${isActive ? 0 : -1}
      aria-selected=${row.id === list.selected ? "true" : "false"}
      @click=${() => open(row.id)} @focus=${() => list.focused(row.id)}>
    ${stateMark(row.state)}
    <span class="event">${eventName(row)}${row.is_replay ? html`<span class="tag">replay</span>` : nothing}${row.duplicates ? html`<span class="tag">+${row.duplicates} retried</span>` : nothing}</span>
    <time datetime=${at} title=${fullTime(at)}>${age(at, now)}</time>
    <span class="repo">${row.repo || nothing}</span>
    <span class="names">${handlersText(row)}</span>
    ${row.discussion ? html`<bdi class="subject">#${row.discussion.num} ${row.discussion.title}</bdi>` : nothing}
    ${error ? html`<span class="error">${prose(error.split("\n", 1)[0].slice(0, 200))}</span>` : nothing}
  </li>`;
}

/**
 * @param {ListOptions & { stats: Stats | null, handlers: Handler[], start: View }} options
 */
export function listView({ list, now, open, stats, handlers, start }) {
  const states = stats?.states ?? {};
  const shown = list.rows.length;
  return html`<section class="list" aria-labelledby="list-title">
    <h2 id="list-title" class="hidden">List of deliveries</h2>
    <form role="search" class="filters" @submit=${(/** @type {Event} */ event) => event.preventDefault()}>
      <input type="search" id="filter" aria-label="Filter deliveries" placeholder="Filter by words (/)"
        autocomplete="off" spellcheck="false" .value=${list.filter.q}
        @input=${onValue((q) => list.setFilter({ q }))}>
      <select aria-label="State" @change=${onValue((state) => list.setFilter({ state }))}>
        <option value="" ?selected=${list.filter.state === ""}>all states</option>
        ${STATES.map((state) => html`<option value=${state} ?selected=${list.filter.state === state}
          >${state}${states[state] ? ` (${states[state]})` : ""}</option>`)}
      </select>
      ${handlers.length || list.filter.handler ? html`
        <select aria-label="Handler" @change=${onValue((handler) => list.setFilter({ handler }))}>
          <option value="" ?selected=${list.filter.handler === ""}>all handlers</option>
          ${handlers.map(({ name }) => html`<option value=${name} ?selected=${list.filter.handler === name}>${name}</option>`)}
        </select>` : nothing}
    </form>
    ${list.error ? html`<p class="problem">${list.error}</p>` : nothing}
    <div class="scroll" id="list-scroll">
      ${shown ? html`<ul id="rows" role="listbox" aria-label="Deliveries"
          @keydown=${(/** @type {KeyboardEvent} */ event) => onKey(event, list, open)}>
          ${repeat(list.rows, (row) => row.id, (row) => rowView(row, { list, now, open }))}
        </ul>` : emptyView(list, start)}
      ${list.before ? html`<p class="older"><button ?disabled=${list.isLoading}
          @click=${() => list.loadOlder()}>Load older</button></p>` : nothing}
    </div>
    <p class="count">${list.isLoading && !shown ? "Loading ..." :
      `${shown.toLocaleString("en")} of ${
        list.isPart ? count(list.total, "match", "matches") : count(list.total, "delivery", "deliveries")}`}</p>
  </section>`;
}

/** @param {DeliveryList} list @param {View} start */
function emptyView(list, start) {
  if (list.isLoading) return nothing;
  if (!list.isFiltered) return start;
  return html`<div class="empty"><p>No delivery matches the filter.</p>
    <p><button @click=${() => list.setFilter({ q: "", state: "", handler: "" })}
      >Clear the filter</button></p></div>`;
}

/** @param {KeyboardEvent} event @param {DeliveryList} list @param {ListOptions["open"]} open */
function onKey(event, list, open) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  /** @type {Record<string, number>} */
  const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: 10, PageUp: -10, Home: -1e9, End: 1e9 };
  if (event.key in steps) {
    event.preventDefault();
    list.move(steps[event.key]);
  } else if (event.key === "Enter" || event.key === " ") {
    event.preventDefault();
    open(list.active || (list.activeRow?.id ?? ""), { focus: true });
  }
}
