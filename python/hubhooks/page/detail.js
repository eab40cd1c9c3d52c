// One delivery: its runs and their attempts, its payload, and the actions.

import { bodyText } from "./commands.js";
import { Tree } from "./tree.js";
import { bytes, clock, debounced, duration, eventName, fullTime, age, html, hubLink, nothing, prose, repeat, stateMark, count } from "./view.js";

const LONGEST_RAW = 100_000;
const RELOAD_PAUSE = 100;
const NAMED = /^`([^`]+)` (?:matches|does not match)/;

export class Detail {
  id = "";
  data = null;
  attempts = [];
  error = "";
  /** tree, raw or headers */
  payload = "tree";
  isRawWhole = false;
  tree;
  #api;
  #update;
  #copy;
  #last = 0;

  constructor(api, update, copy) {
    this.#api = api;
    this.#update = update;
    this.#copy = copy;
    this.reloadSoon = debounced(() => this.#load(), RELOAD_PAUSE);
  }

  /** Show a delivery; an empty id closes it. */
  open(id) {
    if (id === this.id) return;
    this.id = id;
    this.data = null;
    this.attempts = [];
    this.error = "";
    this.isRawWhole = false;
    this.tree = new Tree(this.#update, this.#copy);
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
      const [data, { attempts }] = await Promise.all([
        this.#api.request(path), this.#api.request(`${path}/attempts`),
      ]);
      if (turn !== this.#last || id !== this.id) return;
      Object.assign(this, { data, attempts, error: "" });
    } catch (error) {
      if (turn !== this.#last || id !== this.id) return;
      this.error = error.message;
    }
    this.#update();
  }
}

function codeBlock(text, label) {
  return html`<pre tabindex="0" role="region" aria-label=${label}>${text}</pre>`;
}

function attemptView(attempt, handler) {
  const label = `attempt ${attempt.attempt} of ${handler}`;
  const facts = [clock(attempt.started_at), duration(attempt.started_at, attempt.finished_at),
    attempt.pid ? `process ${attempt.pid}` : "", attempt.code ? `code ${attempt.code}` : ""];
  return html`<li class="attempt">
    <h5>Attempt ${attempt.attempt} ${stateMark(attempt.state)}</h5>
    <p class="quiet">${facts.filter(Boolean).join(", ")}</p>
    ${attempt.error ? html`<p class="error">${attempt.error}</p>` : nothing}
    ${attempt.traceback ? html`<details><summary>Traceback</summary>${codeBlock(attempt.traceback, `Traceback, ${label}`)}</details>` : nothing}
    ${attempt.output ? html`<h6>Output</h6>${codeBlock(attempt.output, `Output, ${label}`)}` : nothing}
    ${attempt.result ? html`<h6>Returned</h6>${codeBlock(attempt.result, `Returned, ${label}`)}` : nothing}
  </li>`;
}

function runView(run, { attempts, handler, text, canReplay, replay }) {
  const own = attempts.filter((attempt) => attempt.handler === run.handler);
  // One traceback is enough: the last attempt has it too.
  const isInAttempts = own.some((attempt) => attempt.traceback === run.traceback);
  return html`<li class="run">
    <div class="run-head"><h4>${run.handler}</h4>${stateMark(run.state)}
      <span class="quiet">${[count(run.attempts, "attempt"), duration(run.started_at, run.finished_at),
        handler?.file ? `${handler.file}:${handler.line}` : ""].filter(Boolean).join(", ")}</span>
      ${canReplay ? html`<button type="button" class="small" aria-label=${`Replay ${run.handler} only`}
        @click=${() => replay([run.handler])}>Replay this</button>` : nothing}</div>
    ${run.error ? html`<p class="error">${run.error}</p>` : nothing}
    ${run.due_at && run.state === "retrying" ? html`<p>Next attempt: ${fullTime(run.due_at)}</p>` : nothing}
    ${run.traceback && !isInAttempts ? codeBlock(run.traceback, `Traceback of ${run.handler}`) : nothing}
    ${own.length ? html`<ul class="attempts">${repeat(own, (one) => one.attempt, (one) => attemptView(one, run.handler))}</ul>` : nothing}
    ${text ? html`<p class="quiet">${prose(text)}</p>` : nothing}
  </li>`;
}

function otherView(text, name, { canReplay, replay }) {
  return html`<li class="run is-other"><p>${prose(text)}
    ${canReplay ? html`<button type="button" class="small" aria-label=${`Run ${name} on this delivery`}
      @click=${() => replay([name])}>Run it</button>` : nothing}</p></li>`;
}

function payloadView(detail, update) {
  const { data } = detail;
  const choose = (name) => html`<button type="button" aria-pressed=${detail.payload === name}
    @click=${() => {
      detail.payload = name;
      update();
    }}>${name[0].toUpperCase()}${name.slice(1)}</button>`;
  return html`<section aria-labelledby="payload-title">
    <div class="section-head"><h3 id="payload-title">Payload</h3>
      <div class="choice" role="group" aria-label="Show the payload as">${["tree", "raw", "headers"].map(choose)}</div></div>
    ${detail.payload === "headers" ? headersView(data.headers ?? {}) : bodyView(detail, update)}
  </section>`;
}

function headersView(headers) {
  return html`<dl class="facts">${Object.entries(headers).map(([name, value]) => html`<dt>${name}</dt><dd><bdi>${value}</bdi></dd>`)}</dl>`;
}

function bodyView(detail, update) {
  const { body, body_omitted: omitted } = detail.data;
  if (omitted) return html`<p>${prose(omitted)}</p>`;
  if (body === null || body === undefined) return html`<p class="quiet">The body was deleted to free space.</p>`;
  if (detail.payload === "tree" && typeof body === "object") return detail.tree.view(body);
  const text = bodyText(body);
  const isCut = text.length > LONGEST_RAW && !detail.isRawWhole;
  return html`${codeBlock(isCut ? text.slice(0, LONGEST_RAW) : text, "Body")}
    ${isCut ? html`<button type="button" @click=${() => {
      detail.isRawWhole = true;
      update();
    }}>Show all ${text.length.toLocaleString("en")} characters</button>` : nothing}`;
}

function linksView(data) {
  const { body } = data;
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

export function detailView({ detail, handlers, now, isDev, update, actions }) {
  if (!detail.id) {
    return html`<section class="detail is-empty" aria-label="Delivery">
      <p class="quiet">Select a delivery to see its runs and its payload.</p></section>`;
  }
  const { data } = detail;
  // One template for both states: the heading keeps the focus when the data arrives.
  return html`<section class="detail" aria-labelledby="detail-title">
    <button type="button" class="back" @click=${actions.close}>Back to the list</button>
    <div class="title"><h2 id="detail-title" tabindex="-1">${data ? eventName(data) : "Delivery"}</h2>
      ${data ? stateMark(data.state) : nothing}</div>
    ${detail.error ? html`<p class="problem">${detail.error}</p>` : nothing}
    ${data ? dataView({ detail, handlers, now, isDev, update, actions }) : nothing}
    ${data || detail.error ? nothing : html`<p class="quiet">Loading ...</p>`}
  </section>`;
}

function dataView({ detail, handlers, now, isDev, update, actions }) {
  const { data } = detail;
  const explained = new Map();
  const notes = [];
  const explanations = data.explanations ?? [];
  for (const text of explanations) {
    const name = NAMED.exec(text)?.[1];
    if (name) explained.set(name, text);
    else notes.push(text);
  }
  // The stored reason has the explanations of that time: only what changed since is shown.
  const isExplained = (line) => explanations.some((text) => text.includes(line));
  const reasons = (data.reason ?? "").split("\n").filter((line) => line && !isExplained(line));
  const can = new Set(data.handlers ?? []);
  const ran = new Set(data.runs.map((run) => run.handler));
  const known = new Map(handlers.map((handler) => [handler.name, handler]));
  return html`
    ${linksView(data)}
    <div class="actions">
      <button type="button" class="primary" ?disabled=${!can.size} @click=${() => actions.replay()}>Replay</button>
      ${isDev ? html`<button type="button" @click=${actions.edit}>Edit and send</button>` : nothing}
      <span class="choice" role="group" aria-label="Copy as">
        <button type="button" @click=${() => actions.copyAs("curl")}>Copy curl</button>
        <button type="button" @click=${() => actions.copyAs("cli")}>CLI</button>
        <button type="button" @click=${() => actions.copyAs("pytest")}>pytest</button>
        <button type="button" @click=${() => actions.copyAs("json")}>JSON</button>
      </span>
    </div>
    <dl class="facts">
      <dt>Received</dt><dd><time datetime=${data.received_at}>${fullTime(data.received_at)}</time>
        <span class="quiet">(${age(data.received_at, now)} ago)</span></dd>
      <dt>Webhook-Id</dt><dd><code>${data.id}</code></dd>
      <dt>Size</dt><dd>${bytes(data.size)}</dd>
      ${data.is_replay ? html`<dt>Origin</dt><dd>Replay on the Hub</dd>` : nothing}
      ${data.duplicates ? html`<dt>Received again</dt><dd>${count(data.duplicates, "time")}</dd>` : nothing}
      ${data.is_acknowledged ? nothing : html`<dt>Acknowledged</dt><dd>not yet</dd>`}
      ${reasons.length ? html`<dt>${notes.length || explained.size ? "Reason then" : "Reason"}</dt>
        <dd>${reasons.map((line) => html`<span class="line">${prose(line)}</span>`)}</dd>` : nothing}
    </dl>
    <section aria-labelledby="runs-title"><h3 id="runs-title" class="hidden">Handlers</h3>
      <ul class="runs">
        ${repeat(data.runs, (run) => run.handler, (run) => runView(run, {
          attempts: detail.attempts, handler: known.get(run.handler), text: explained.get(run.handler),
          canReplay: can.has(run.handler), replay: actions.replay,
        }))}
        ${[...explained].filter(([name]) => !ran.has(name)).map(([name, text]) => otherView(text, name, {
          canReplay: can.has(name), replay: actions.replay,
        }))}
        ${notes.map((text) => html`<li class="run is-other"><p>${prose(text)}</p></li>`)}
      </ul></section>
    ${payloadView(detail, update)}`;
}
