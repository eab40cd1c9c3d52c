// One delivery: its runs and their attempts, its payload, and the actions.

import { bodyText } from "./commands.js";
import { matches } from "./list.js";
import { Tree } from "./tree.js";
import {
  age, bytes, clock, copyButtons, count, debounced, duration, eventName, fullTime, html, hubLink, nothing, prose,
  repeat, stateMark,
} from "./view.js";

const LONGEST_RAW = 100_000;
const RELOAD_PAUSE = 100;
const NAMED = /^`([^`]+)` (?:matches|does not match)/;

export class Detail {
  id = "";
  /** @type {Delivery | null} */
  data = null;
  /** @type {Attempt[]} */
  attempts = [];
  /**
   * The version of the code that runs the handlers now.
   * @type {string | null}
   */
  code = null;
  error = "";
  /** tree, raw or headers */
  payload = "tree";
  isRawWhole = false;
  /** @type {Tree} */
  tree;
  /**
   * The numbers of the attempts that are shown, by handler; the last two by default.
   * @type {Map<string, number[]>}
   */
  shown = new Map();
  /**
   * The handlers whose attempts are compared.
   * @type {Set<string>}
   */
  compared = new Set();
  #api;
  #update;
  #actions;
  #last = 0;

  /** @param {Api} api @param {Action} update @param {TreeActions} actions */
  constructor(api, update, actions) {
    this.#api = api;
    this.#update = update;
    this.#actions = actions;
    this.tree = new Tree(update, actions);
    this.reloadSoon = debounced(() => this.#load(), RELOAD_PAUSE);
  }

  /**
   * Show a delivery; an empty id closes it.
   * @param {string} id
   */
  open(id) {
    if (id === this.id) return;
    this.id = id;
    this.data = null;
    this.attempts = [];
    this.error = "";
    this.isRawWhole = false;
    this.shown.clear();
    this.compared.clear();
    this.tree = new Tree(this.#update, this.#actions);
    this.#update();
    if (id) this.#load();
  }

  async #load() {
    const { id } = this;
    if (!id) return;
    this.#last += 1;
    const turn = this.#last;
    const path = `deliveries/${encodeURIComponent(id)}`;
    try {
      const [data, { attempts, code }] = await Promise.all([
        this.#api.request(path), this.#api.request(`${path}/attempts`),
      ]);
      if (turn !== this.#last || id !== this.id) return;
      Object.assign(this, { data, attempts, code, error: "" });
    } catch (error) {
      if (turn !== this.#last || id !== this.id) return;
      this.error = error.message;
    }
    this.#update();
  }

  /**
   * Show or hide an attempt.
   * @param {Attempt} attempt @param {Attempt[]} shown
   */
  toggle(attempt, shown) {
    const numbers = shown.map((one) => one.attempt);
    const { handler, attempt: number } = attempt;
    this.shown.set(handler, numbers.includes(number)
      ? numbers.filter((one) => one !== number) : [...numbers, number]);
    this.#update();
  }

  /**
   * Start or stop to compare the attempts of a handler.
   * @param {string} handler
   */
  compare(handler) {
    if (!this.compared.delete(handler)) this.compared.add(handler);
    this.#update();
  }
}

/** @param {View} text @param {string} label */
function codeBlock(text, label) {
  return html`<pre tabindex="0" role="region" aria-label=${label}>${text}</pre>`;
}

/**
 * Mark the lines of a text that another text does not have.
 * @param {string} text @param {string[]} others
 */
function marked(text, others) {
  const known = others.map((other) => new Set(other.split("\n")));
  return text.split("\n").map((line, at) => {
    const isSame = known.every((one) => one.has(line));
    return html`${at ? "\n" : ""}${isSame ? line : html`<mark>${line}</mark>`}`;
  });
}

/**
 * The lines of the traceback that ran, and those of the file now.
 * @param {Attempt} attempt @param {string | null} code
 */
function editedView(attempt, code) {
  const lines = attempt.changed_lines ?? [];
  const isOld = attempt.code && code && attempt.code !== code;
  if (!lines.length) return isOld ? html`<p class="quiet">The app was edited since.</p>` : nothing;
  return html`<h6>Edited since</h6><dl class="facts">${lines.map((one) => html`
    <dt>${one.file}:${one.line}</dt><dd><code class="line">${one.then}</code> now <code class="line">${one.now || "(no such line)"}</code></dd>`)}</dl>`;
}

/**
 * @param {Attempt} attempt
 * @param {{ handler: string, code: string | null, others: Attempt[] | null }} options
 */
function attemptView(attempt, { handler, code, others }) {
  const label = `attempt ${attempt.attempt} of ${handler}`;
  const facts = [clock(attempt.started_at), duration(attempt.started_at, attempt.finished_at),
    attempt.pid ? `process ${attempt.pid}` : "", attempt.code ? `code version ${attempt.code}` : ""];
  /** @param {"traceback" | "output" | "result"} key @param {string} name */
  const block = (key, name) => {
    const text = attempt[key] ?? "";
    const shown = others ? marked(text, others.map((other) => other[key] ?? "")) : text;
    return codeBlock(shown, `${name}, ${label}`);
  };
  return html`<li class="attempt">
    <h5>Attempt ${attempt.attempt} ${stateMark(attempt.state)}</h5>
    <p class="quiet">${facts.filter(Boolean).join(", ")}</p>
    ${attempt.error ? html`<p class="error">${attempt.error}</p>` : nothing}
    ${editedView(attempt, code)}
    ${attempt.traceback ? html`<details ?open=${others !== null}><summary>Traceback</summary>${block("traceback", "Traceback")}</details>` : nothing}
    ${attempt.output ? html`<h6>Output</h6>${block("output", "Output")}` : nothing}
    ${attempt.result ? html`<h6>Returned</h6>${block("result", "Returned")}` : nothing}
  </li>`;
}

/** @param {Detail} detail @param {Attempt[]} own @param {string} name */
function attemptsView(detail, own, name) {
  const numbers = detail.shown.get(name) ?? own.slice(-2).map((one) => one.attempt);
  const shown = own.filter((one) => numbers.includes(one.attempt));
  const isCompared = shown.length > 1 && detail.compared.has(name);
  const texts = shown.map((one) => JSON.stringify([one.error, one.traceback, one.output, one.result]));
  const isSame = isCompared && new Set(texts).size === 1;
  return html`
    ${own.length > 1 ? html`<div class="actions">
      ${own.length > 2 ? html`<span class="choice" role="group" aria-label=${`Attempts of ${name}`}>${own.map((one) => html`
        <button class="small" aria-pressed=${shown.includes(one)}
          @click=${() => detail.toggle(one, shown)}>${one.attempt} ${one.state}</button>`)}</span>` : nothing}
      <button class="small" aria-label=${`Compare attempts of ${name}`} aria-pressed=${isCompared}
        ?disabled=${shown.length < 2} @click=${() => detail.compare(name)}>Compare</button></div>` : nothing}
    ${isSame ? html`<p class="quiet" role="status">These attempts have the same result and output.</p>` : nothing}
    <ul class="attempts">${repeat(shown, (one) => one.attempt, (one) => attemptView(one, {
      handler: name, code: detail.code,
      others: isCompared ? shown.filter((other) => other !== one) : null,
    }))}</ul>`;
}

/**
 * @param {Run} run
 * @param {{ detail: Detail, handler?: Handler, text?: string, canReplay: boolean,
 *   replay: DetailActions["replay"] }} options
 */
function runView(run, { detail, handler, text, canReplay, replay }) {
  const own = detail.attempts.filter((attempt) => attempt.handler === run.handler);
  // The last attempt has the error and the traceback too.
  const isInAttempts = own.some((one) => one.error === run.error && one.traceback === run.traceback);
  return html`<li class="run">
    <div class="run-head"><h4>${run.handler}</h4>${stateMark(run.state)}
      <span class="quiet">${[count(run.attempts, "attempt"), duration(run.started_at, run.finished_at),
        handler?.file ? `${handler.file}:${handler.line}` : ""].filter(Boolean).join(", ")}</span>
      ${canReplay ? html`<button class="small" aria-label=${`Replay this: ${run.handler}`}
        @click=${() => replay([run.handler])}>Replay this</button>` : nothing}</div>
    ${run.error && !isInAttempts ? html`<p class="error">${run.error}</p>` : nothing}
    ${run.due_at && run.state === "retrying" ? html`<p>Next attempt: ${fullTime(run.due_at)}</p>` : nothing}
    ${run.traceback && !isInAttempts ? codeBlock(run.traceback, `Traceback of ${run.handler}`) : nothing}
    ${own.length ? attemptsView(detail, own, run.handler) : nothing}
    ${text && !text.endsWith("` matches") ? html`<p class="quiet">${prose(text)}</p>` : nothing}
  </li>`;
}

/**
 * @param {string} text @param {string} name
 * @param {{ canReplay: boolean, replay: DetailActions["replay"] }} options
 */
function otherView(text, name, { canReplay, replay }) {
  return html`<li class="run is-other"><p>${prose(text)}
    ${canReplay ? html`<button class="small" aria-label=${`Run it: ${name}`}
      @click=${() => replay([name])}>Run it</button>` : nothing}</p></li>`;
}

/** @param {Detail} detail @param {Delivery} data @param {Action} update */
function payloadView(detail, data, update) {
  /** @param {string} name */
  const choose = (name) => html`<button aria-pressed=${detail.payload === name}
    @click=${() => {
      detail.payload = name;
      update();
    }}>${name[0].toUpperCase()}${name.slice(1)}</button>`;
  return html`<section aria-labelledby="payload-title">
    <div class="section-head"><h3 id="payload-title">Payload</h3>
      <div class="choice" role="group" aria-label="Show the payload as">${["tree", "raw", "headers"].map(choose)}</div></div>
    ${detail.payload === "headers" ? headersView(data.headers ?? []) : bodyView(detail, data, update)}
  </section>`;
}

/** @param {[string, string][]} headers */
function headersView(headers) {
  return html`<dl class="facts">${headers.map(([name, value]) => html`<dt>${name}</dt><dd><bdi>${value}</bdi></dd>`)}</dl>`;
}

/** @param {Detail} detail @param {Delivery} data @param {Action} update */
function bodyView(detail, data, update) {
  const { body, body_omitted: omitted } = data;
  if (omitted) return html`<p>${prose(omitted)}</p>`;
  if (body === null || body === undefined) return html`<p class="quiet">The body was deleted to free space.</p>`;
  if (detail.payload === "tree" && typeof body === "object") {
    return detail.tree.view(body, (value) => matches(data, { q: value, state: "", handler: "" }));
  }
  const text = bodyText(body);
  const isCut = text.length > LONGEST_RAW && !detail.isRawWhole;
  return html`${codeBlock(isCut ? text.slice(0, LONGEST_RAW) : text, "Body")}
    ${isCut ? html`<button @click=${() => {
      detail.isRawWhole = true;
      update();
    }}>Show all ${text.length.toLocaleString("en")} characters</button>` : nothing}`;
}

/** @param {Delivery} data */
function linksView(data) {
  const { body } = data;
  /** @param {string} name */
  const part = (name) => (body && typeof body === "object" && body[name]) || {};
  const links = [];
  const { num, title } = part("discussion");
  if (num !== undefined) {
    const text = `#${num}${title ? ` ${title}` : ""}`.slice(0, 120);
    links.push(hubLink(part("comment").url?.web ?? part("discussion").url?.web, text));
  }
  if (data.repo) links.unshift(hubLink(part("repo").url?.web, data.repo));
  return links.length ? html`<p class="where">${links.map((link, at) => html`${at ? " " : nothing}${link}`)}</p>` : nothing;
}

/** @param {DetailOptions} options */
export function detailView(options) {
  const { detail, actions } = options;
  if (!detail.id) {
    return html`<section class="detail is-empty" aria-label="Delivery">
      <p class="quiet">Select a delivery to see its runs and its payload.</p></section>`;
  }
  const { data } = detail;
  // One template for both states: the heading keeps the focus when the data arrives.
  return html`<section class="detail" aria-labelledby="detail-title">
    <button class="back" @click=${actions.close}>Back to the list</button>
    <div class="title"><h2 id="detail-title" tabindex="-1">${data ? eventName(data) : "Delivery"}</h2>
      ${data ? stateMark(data.state) : nothing}</div>
    ${detail.error ? html`<p class="problem">${detail.error}</p>` : nothing}
    ${data ? dataView(data, options) : nothing}
    ${data || detail.error ? nothing : html`<p class="quiet">Loading ...</p>`}
  </section>`;
}

/** @param {Delivery} data @param {DetailOptions} options */
function dataView(data, { detail, handlers, now, isDev, update, actions }) {
  /** @type {Map<string, string>} */
  const explained = new Map();
  /** @type {string[]} */
  const notes = [];
  const explanations = data.explanations ?? [];
  for (const text of explanations) {
    const name = NAMED.exec(text)?.[1];
    if (name) explained.set(name, text);
    else notes.push(text);
  }
  // The stored reason has the explanations of that time: only what changed since is shown.
  /** @param {string} line */
  const isExplained = (line) => explanations.some((text) => text.includes(line));
  const reasons = (data.reason ?? "").split("\n").filter((line) => line && !isExplained(line));
  const can = new Set(data.handlers ?? []);
  const ran = new Set(data.runs.map((run) => run.handler));
  const known = new Map(handlers.map((handler) => [handler.name, handler]));
  return html`
    ${linksView(data)}
    <div class="actions">
      <button class="primary" ?disabled=${!can.size} @click=${() => actions.replay()}>Replay</button>
      ${isDev ? html`<button @click=${actions.edit}>Edit and send</button>` : nothing}
      ${copyButtons(["curl", "cli", "pytest", "json"], actions.copyAs)}
    </div>
    <dl class="facts">
      <dt>Received</dt><dd><time datetime=${data.received_at}>${fullTime(data.received_at)}</time>
        <span class="quiet">(${age(data.received_at, now)})</span></dd>
      <dt>Webhook-Id</dt><dd><code>${data.id}</code></dd>
      <dt>Size</dt><dd>${bytes(data.size)}</dd>
      ${data.duplicates ? html`<dt>Received again</dt><dd>${count(data.duplicates, "time")}</dd>` : nothing}
      ${data.is_acknowledged ? nothing : html`<dt>Acknowledged</dt><dd>not yet</dd>`}
      ${reasons.length ? html`<dt>${notes.length || explained.size ? "Reason then" : "Reason"}</dt>
        <dd>${reasons.map((line) => html`<span class="line">${prose(line)}</span>`)}</dd>` : nothing}
    </dl>
    <section aria-labelledby="runs-title"><h3 id="runs-title" class="hidden">Handlers</h3>
      <ul class="runs">
        ${repeat(data.runs, (run) => run.handler, (run) => runView(run, {
          detail, handler: known.get(run.handler), text: explained.get(run.handler),
          canReplay: can.has(run.handler), replay: actions.replay,
        }))}
        ${[...explained].filter(([name]) => !ran.has(name)).map(([name, text]) => otherView(text, name, {
          canReplay: can.has(name), replay: actions.replay,
        }))}
        ${notes.map((text) => html`<li class="run is-other"><p>${prose(text)}</p></li>`)}
      </ul></section>
    ${payloadView(detail, data, update)}`;
}
