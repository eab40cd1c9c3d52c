// The handlers with their counts, and the matrix of samples and handlers.

import { STATES, age, count, html, nothing, prose, stateMark } from "./view.js";

const REQUESTS_AT_A_TIME = 4;
const COMMENT = "discussion.comment.create";

export class HandlerMap {
  /** @type {Handler[]} */
  handlers = [];
  /** @type {Sample[]} */
  samples = [];
  /**
   * The result of `explain` for each sample, by its name.
   * @type {Map<string, Explained>}
   */
  results = new Map();
  /**
   * The cell that is explained.
   * @type {{ sample: string, handler: string } | null}
   */
  cell = null;
  error = "";
  isLoaded = false;
  #api;
  #update;
  #turn = 0;

  /** @param {Api} api @param {Action} update */
  constructor(api, update) {
    this.#api = api;
    this.#update = update;
  }

  /** Load the handlers; the list of deliveries needs their names. */
  async load() {
    try {
      ({ handlers: this.handlers } = await this.#api.request("handlers"));
      this.error = "";
    } catch (error) {
      this.error = error.message;
    }
    this.isLoaded = true;
    this.#update();
  }

  /** Explain each sample. Handlers can have changed, so nothing is kept from an earlier turn. */
  async compute() {
    this.#turn += 1;
    const turn = this.#turn;
    this.results = new Map();
    try {
      if (!this.samples.length) ({ samples: this.samples } = await this.#api.request("samples"));
    } catch (error) {
      this.error = error.message;
      this.#update();
      return;
    }
    const rest = [...this.samples];
    const work = async () => {
      for (let sample = rest.shift(); sample && turn === this.#turn; sample = rest.shift()) {
        const { name, body } = sample;
        const result = await this.#api
          .request("explain", { method: "POST", body: JSON.stringify(body) })
          .catch((error) => ({ handlers: [], ignored: error.message }));
        if (turn === this.#turn) this.results.set(name, result);
      }
    };
    await Promise.all(Array.from({ length: REQUESTS_AT_A_TIME }, work));
    this.#update();
  }

  /** @param {string} sample @param {string} handler */
  find(sample, handler) {
    return this.results.get(sample)?.handlers.find((one) => one.name === handler);
  }

  /**
   * The sample that fails the fewest criteria of a handler; none if all have another scope.
   * @param {string} handler
   */
  closest(handler) {
    /** @type {{ name: string, number: number, text: string } | null} */
    let found = null;
    for (const { name } of this.samples) {
      const one = this.find(name, handler);
      if (!one || one.failing.includes("scope")) continue;
      const number = one.failing.length;
      if (!found || number < found.number) found = { name, number, text: one.text };
    }
    return found;
  }

  /** The first sample that a handler matches, a new comment if possible; empty if there is none. */
  matched() {
    const names = this.samples.map(({ name }) => name)
      .filter((name) => this.results.get(name)?.handlers.some((one) => one.matches));
    return names.find((name) => name === COMMENT) ?? names[0] ?? COMMENT;
  }

  get isComplete() {
    return this.samples.length > 0 && this.results.size === this.samples.length;
  }

  /** @param {string} sample @param {string} handler */
  choose(sample, handler) {
    this.cell = { sample, handler };
    this.#update();
  }
}

const SECONDS = ["backoff", "debounce", "timeout"];
const NOT_SET = new Set([null, undefined, false, "", 0].map((value) => /** @type {unknown} */ (value)));

/** @param {Record<string, unknown>} policy */
function policyText(policy) {
  return Object.entries(policy ?? {})
    // The backoff decides nothing without retries.
    .filter(([name, value]) => !NOT_SET.has(value) && !(name === "backoff" && !policy.retries))
    .map(([name, value]) => {
      const unit = SECONDS.includes(name) && typeof value === "number" ? " s" : "";
      return `${name} ${typeof value === "object" ? JSON.stringify(value) : value}${unit}`;
    })
    .join(", ");
}

/** @param {HandlerMap} map @param {string} name @param {number} deliveries */
function noMatchView(map, name, deliveries) {
  const closest = map.closest(name);
  const reason = closest?.text.replace(/^`[^`]*` does not match: /, "") ?? "";
  return html`<p class="problem">Matches none of ${deliveries ? html`the ${count(deliveries, "delivery", "deliveries")} and ` : nothing}the ${map.samples.length} samples.</p>
    <p class="quiet">${closest ? html`Closest: <code>${closest.name}</code>, but ${prose(reason)}` : "All samples have another scope."}</p>`;
}

/** @param {Handler} handler @param {HandlerOptions} options */
function handlerView(handler, { map, now, isDev, total, showDeliveries, openDelivery, send }) {
  const { name, last, counts = {} } = handler;
  const states = STATES.filter((state) => counts[state]);
  const matching = map.samples.filter((sample) => map.find(sample.name, name)?.matches);
  const policy = policyText(handler.policy);
  return html`<li class="handler">
    <div class="run-head"><h3>${name}</h3>
      <span class="quiet">${handler.file}:${handler.line}${handler.is_async ? ", async" : ""}</span></div>
    ${handler.filters.map((text) => html`<p class="filter">${prose(text)}</p>`)}
    ${policy ? html`<p class="quiet">${policy}</p>` : nothing}
    <p>${states.length ? states.map((state) => html`<span class="tally">${stateMark(state)} ${counts[state].toLocaleString("en")}</span>`) : "No run yet."}</p>
    ${last ? html`<p class="quiet">Last run: <button class="small" @click=${() => openDelivery(last.delivery)}>${last.state} ${age(last.at, now)}</button></p>` : nothing}
    ${map.isComplete && !matching.length ? noMatchView(map, name, states.length ? 0 : total) : nothing}
    <div class="actions"><button aria-label=${`Deliveries of ${name}`} @click=${() => showDeliveries(name)}>Deliveries</button>
      ${isDev && matching.length ? html`<button aria-label=${`Send a match for ${name}`} @click=${() => send(matching[0].name)}>Send a match</button>` : nothing}</div>
  </li>`;
}

/** @param {HandlerMap} map @param {string} sample @param {string} handler */
function cellView(map, sample, handler) {
  const one = map.find(sample, handler);
  if (!one) return html`<td>${map.results.has(sample) ? "–" : ""}</td>`;
  const isChosen = map.cell?.sample === sample && map.cell?.handler === handler;
  return html`<td><button class=${one.matches ? "cell is-match" : "cell"} aria-pressed=${isChosen}
    aria-label=${`${sample}: ${handler} ${one.matches ? "matches" : "does not match"}`}
    @click=${() => map.choose(sample, handler)}>${one.matches ? "✓" : "–"}</button></td>`;
}

/** @param {HandlerMap} map */
function reasonView(map) {
  if (!map.cell) return html`<p class="quiet">Select a cell to see the reason.</p>`;
  const { sample, handler } = map.cell;
  const one = map.find(sample, handler);
  return html`<p><strong>${sample}</strong>: ${prose(one?.text || "")}</p>`;
}

/** @param {HandlerMap} map */
function matrixView(map) {
  return html`<section aria-labelledby="matrix-title">
    <h3 id="matrix-title">Events and handlers</h3>
    <p class="quiet">${map.isComplete ? html`Each of the ${count(map.samples.length, "sample")}, matched by the app. No handler runs.` : "Matching the samples ..."}</p>
    <div class="reason" role="status">${reasonView(map)}</div>
    <div class="scroll-x" tabindex="0" role="region" aria-label="Table of matches">
      <table><thead><tr><th scope="col">Sample</th>${map.handlers.map(({ name }) => html`<th scope="col">${name}</th>`)}<th scope="col"><span class="hidden">Note</span></th></tr></thead>
      <tbody>${map.samples.map(({ name }) => {
        const result = map.results.get(name);
        const isUnhandled = result && !result.handlers.some((one) => one.matches);
        return html`<tr><th scope="row">${name.split(".").map((part, at) => html`${at ? html`.<wbr>` : nothing}${part}`)}</th>${map.handlers.map((handler) => cellView(map, name, handler.name))}
          <td class="quiet">${isUnhandled ? result.ignored || "no handler" : nothing}</td></tr>`;
      })}</tbody></table></div>
  </section>`;
}

/** @param {HandlerOptions} options */
export function handlersView(options) {
  const { map } = options;
  return html`<section class="page" aria-labelledby="page-title">
    <h2 id="page-title" tabindex="-1">Handlers</h2>
    ${map.error ? html`<p class="problem">${map.error}</p>` : nothing}
    ${map.isLoaded && !map.handlers.length && !map.error ? html`<p>No handler is registered. Write one, such as <code>@hooks.on("discussion", action="create")</code>.</p>` : nothing}
    <ul class="handlers">${map.handlers.map((handler) => handlerView(handler, options))}</ul>
    ${map.handlers.length ? matrixView(map) : nothing}
  </section>`;
}
