// The list of deliveries: what is loaded, what matches the filter, and its view.

import { STATES, age, count, debounced, eventName, fullTime, html, nothing, repeat, stateMark } from "./view.js";

const PAGE = 100;
// Live arrivals push the oldest rows out of the list; "Load older" brings them back.
const MOST_LIVE = 500;
const TYPING_PAUSE = 60;

export class DeliveryList {
  rows = [];
  total = 0;
  before = null;
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
  #request = null;
  #most = MOST_LIVE;
  // Rows of the stream that arrive during a request may be newer than its response.
  #arrived = new Map();

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

  /** Take a new or changed delivery of the stream. Return true if it is new in the list. */
  apply(row) {
    if (this.#request) this.#arrived.set(row.id, row);
    const at = this.rows.findIndex((one) => one.id === row.id);
    const isMatch = matches(row, this.filter);
    if (at >= 0) {
      // The row in use stays, although it does not match any more.
      const isInUse = row.id === this.active || row.id === this.selected;
      if (isMatch || isInUse) this.rows = this.rows.with(at, row);
      else {
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
      const last = this.rows.at(-1).id;
      if (last === this.active || last === this.selected) return;
      this.rows = this.rows.slice(0, -1);
      this.before = this.rows.at(-1).id;
    }
  }

  setFilter(change) {
    Object.assign(this.filter, change);
    // The response to the old filter would be shown as that of the new one.
    this.#request?.abort();
    this.#request = null;
    this.loadSoon();
    this.#update();
  }

  /** Move the focus by a number of rows. */
  move(step) {
    if (!this.rows.length) return;
    const at = this.rows.findIndex((row) => row.id === this.active);
    const next = at < 0 ? 0 : Math.min(Math.max(at + step, 0), this.rows.length - 1);
    this.focus(this.rows[next].id);
  }

  focus(id) {
    this.active = id;
    this.#update();
    queueMicrotask(() => this.element(id)?.focus());
  }

  /** Remember the row that has the focus. */
  focused(id) {
    if (this.active === id) return;
    this.active = id;
    this.#update();
  }

  element(id) {
    return document.querySelector(`#rows > [data-id="${CSS.escape(id)}"]`);
  }
}

/** Return true if a filter finds a row, as the server does. */
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

/** The handlers of a delivery; the state of each one is shown if they differ. */
function handlersText(row) {
  const isSame = row.runs.every((run) => run.state === row.state);
  return row.runs.map((run) => (isSame ? run.handler : `${run.handler}: ${run.state}`)).join(", ");
}

function rowView(row, { list, now, open }) {
  const error = row.runs.find((run) => run.error)?.error ?? row.reason;
  const isActive = row.id === (list.activeRow?.id ?? "");
  return html`<li role="option" data-id=${row.id} tabindex=${isActive ? 0 : -1}
      aria-selected=${row.id === list.selected ? "true" : "false"}
      @click=${() => open(row.id)} @focus=${() => list.focused(row.id)}>
    ${stateMark(row.state)}
    <span class="event">${eventName(row)}${row.is_replay ? html`<span class="tag">replay</span>` : nothing}${row.duplicates ? html`<span class="tag">+${row.duplicates} retried</span>` : nothing}</span>
    <time datetime=${row.received_at} title=${fullTime(row.received_at)}>${age(row.received_at, now)}</time>
    <span class="repo">${row.repo || nothing}</span>
    <span class="names">${handlersText(row)}</span>
    ${error ? html`<span class="error">${error.slice(0, 200)}</span>` : nothing}
  </li>`;
}

export function listView({ list, now, open, stats, handlers, start }) {
  const states = stats?.states ?? {};
  const shown = list.rows.length;
  return html`<section class="list" aria-labelledby="list-title">
    <h2 id="list-title" class="hidden">List of deliveries</h2>
    <form role="search" class="filters" @submit=${(event) => event.preventDefault()}>
      <input type="search" id="filter" aria-label="Filter deliveries" placeholder="Filter: words, /"
        autocomplete="off" spellcheck="false" .value=${list.filter.q}
        @input=${(event) => list.setFilter({ q: event.target.value })}>
      <select aria-label="State" @change=${(event) => list.setFilter({ state: event.target.value })}>
        <option value="" ?selected=${list.filter.state === ""}>all states</option>
        ${STATES.map((state) => html`<option value=${state} ?selected=${list.filter.state === state}
          >${state}${states[state] ? ` (${states[state]})` : ""}</option>`)}
      </select>
      ${handlers.length || list.filter.handler ? html`
        <select aria-label="Handler" @change=${(event) => list.setFilter({ handler: event.target.value })}>
          <option value="" ?selected=${list.filter.handler === ""}>all handlers</option>
          ${handlers.map(({ name }) => html`<option value=${name} ?selected=${list.filter.handler === name}>${name}</option>`)}
        </select>` : nothing}
    </form>
    ${list.error ? html`<p class="problem">${list.error}</p>` : nothing}
    <div class="scroll" id="list-scroll">
      ${shown ? html`<ul id="rows" role="listbox" aria-label="Deliveries"
          @keydown=${(event) => onKey(event, list, open)}>
          ${repeat(list.rows, (row) => row.id, (row) => rowView(row, { list, now, open }))}
        </ul>` : emptyView(list, start)}
      ${list.before ? html`<p class="older"><button type="button" ?disabled=${list.isLoading}
          @click=${() => list.loadOlder()}>Load older</button></p>` : nothing}
    </div>
    <p class="count">${list.isLoading && !shown ? "Loading ..." :
      `${shown.toLocaleString("en")} of ${
        list.isPart ? count(list.total, "match", "matches") : count(list.total, "delivery", "deliveries")}`}</p>
  </section>`;
}

function emptyView(list, start) {
  if (list.isLoading) return nothing;
  if (!list.isFiltered) return start;
  return html`<div class="empty"><p>No delivery matches the filter.</p>
    <p><button type="button" @click=${() => list.setFilter({ q: "", state: "", handler: "" })}
      >Clear the filter</button></p></div>`;
}

function onKey(event, list, open) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: 10, PageUp: -10, Home: -1e9, End: 1e9 };
  if (event.key in steps) {
    event.preventDefault();
    list.move(steps[event.key]);
  } else if (event.key === "Enter" || event.key === " ") {
    event.preventDefault();
    open(list.active || list.activeRow?.id, { focus: true });
  }
}
