// The dialog that writes and sends a delivery. `hubhooks dev` has it, `hooks.admin` does not.

import { bodyText } from "./commands.js";
import { age, bytes, copyButtons, debounced, eventName, html, nothing, onValue, prose } from "./view.js";

const TYPING_PAUSE = 150;
const RECENT = 20;
// The status of `explain` for a body that is not an event.
const MALFORMED = 422;
// Without the right secret nothing is stored.
const NOT_STORED = [401, 403];

/** @typedef {{ path: string, label: string, options?: string[], isWide?: boolean }} Field */

// Fields that a form can change. A field is shown if the body has it.
/** @type {Field[]} */
const FIELDS = [
  { path: "repo.name", label: "Repository" },
  { path: "repo.type", label: "Type", options: ["model", "dataset", "space", "bucket"] },
  { path: "updatedRefs.0.ref", label: "Ref" },
  { path: "discussion.title", label: "Title", isWide: true },
  { path: "comment.author.id", label: "Author's id" },
  { path: "comment.content", label: "Comment", isWide: true },
  { path: "comment.hidden", label: "Hidden" },
  { path: "discussion.status", label: "Status", options: ["draft", "open", "closed", "merged"] },
];

const SECRETS = [["right", "right"], ["wrong", "wrong"], ["none", "none"], ["url", "in the URL (?secret=)"]];

export class Compose {
  isOpen = false;
  /** @type {Sample[]} */
  samples = [];
  /** `sample:<name>` or `delivery:<id>` */
  source = "";
  text = "";
  #original = "";
  /** @type {{ reason: string, line: number } | null} */
  syntaxError = null;
  /** @type {Explained | null} */
  matches = null;
  rejection = "";
  isSameId = false;
  id = "";
  secret = "right";
  /** @type {SentResponse[]} */
  responses = [];
  isSending = false;
  /** True while the dialog looks for its first body. */
  isLoading = false;
  error = "";
  #api;
  #update;
  #announce;
  #turn = 0;

  /** @param {Api} api @param {Action} update @param {Announce} announce */
  constructor(api, update, announce) {
    this.#api = api;
    this.#update = update;
    this.#announce = announce;
    this.explainSoon = debounced(() => this.#explain(), TYPING_PAUSE);
  }

  /**
   * Open the dialog with a sample, a delivery, or the last text. Without a last text, `preferred`
   * names a sample.
   * @param {{ sample?: string, delivery?: Delivery | null, preferred?: () => Promise<string> }} [options]
   */
  async open({ sample = "", delivery = null, preferred } = {}) {
    this.isOpen = true;
    this.responses = [];
    this.error = "";
    this.isLoading = !this.text;
    this.#update();
    try {
      if (!this.samples.length) ({ samples: this.samples } = await this.#api.request("samples"));
    } catch (error) {
      this.error = error.message;
    }
    if (delivery) this.#start(`delivery:${delivery.id}`, bodyText(delivery.body), delivery.id);
    else if (sample) this.choose(`sample:${sample}`);
    else if (!this.text && this.samples.length) {
      const name = await preferred?.();
      const first = this.samples.find((one) => one.name === name) ?? this.samples[0];
      if (!this.text) this.choose(`sample:${first.name}`);
    } else this.explainSoon();
    this.isLoading = false;
    this.#update();
  }

  close() {
    this.isOpen = false;
    this.#update();
  }

  /** @param {string} source */
  async choose(source) {
    const [kind, ...rest] = source.split(":");
    const name = rest.join(":");
    if (kind === "sample") {
      const sample = this.samples.find((one) => one.name === name);
      if (sample) this.#start(source, bodyText(sample.body), "");
      return;
    }
    try {
      const { body } = await this.#api.request(`deliveries/${encodeURIComponent(name)}`);
      if (body === null) throw new Error("the body of this delivery is not available");
      this.#start(source, bodyText(body), name);
    } catch (error) {
      this.error = error.message;
      this.#update();
    }
  }

  /** @param {string} source @param {string} text @param {string} id */
  #start(source, text, id) {
    this.source = source;
    this.#original = text;
    this.id = id;
    this.isSameId = false;
    this.error = "";
    this.setText(text);
  }

  reset() {
    this.setText(this.#original);
  }

  get changedLines() {
    const before = this.#original.split("\n");
    const after = this.text.split("\n");
    const same = new Set(before);
    return after.filter((line) => !same.has(line)).length || Number(before.length !== after.length);
  }

  /** @param {string} text */
  setText(text) {
    this.text = text;
    this.syntaxError = findSyntaxError(text);
    this.explainSoon();
    this.#update();
  }

  /** @param {string} path @param {Json} value */
  setField(path, value) {
    const body = JSON.parse(this.text);
    const [last, ...keys] = path.split(".").reverse();
    keys.reduceRight((part, key) => part[key], body)[last] = value;
    this.setText(bodyText(body));
  }

  /** @param {Partial<Pick<Compose, "isSameId" | "id" | "secret">>} change */
  set(change) {
    Object.assign(this, change);
    this.#update();
  }

  async #explain() {
    if (!this.isOpen) return;
    this.#turn += 1;
    const turn = this.#turn;
    if (this.syntaxError) {
      this.matches = null;
      this.rejection = "";
      this.#update();
      return;
    }
    try {
      /** @type {Explained} */
      const result = await this.#api.request("explain", { method: "POST", body: this.text });
      if (turn !== this.#turn) return;
      this.matches = result;
      this.rejection = "";
      const names = result.handlers.filter((one) => one.matches).map((one) => one.name);
      this.#announce(names.length ? `Would match: ${names.join(", ")}` : "No handler would match");
    } catch (error) {
      if (turn !== this.#turn) return;
      this.matches = null;
      const text = error.path ? `${error.path}: ${error.message}` : error.message;
      this.rejection = error.status === MALFORMED ? `Malformed: ${text}` : `Not known: ${text}`;
    }
    this.#update();
  }

  async send(times = 1) {
    if (this.isSending || this.isLoading) return;
    this.isSending = true;
    this.error = "";
    this.#update();
    const id = this.isSameId && this.id ? this.id : null;
    const body = JSON.stringify({ body: this.text, id, secret: this.secret, times });
    try {
      const { responses } = await this.#api.request("send", { method: "POST", body });
      this.responses = responses;
      this.#announce(`Response: ${responses.map(responseText).join(", ")}`, true);
    } catch (error) {
      this.responses = [];
      this.error = error.message;
    }
    this.isSending = false;
    this.#update();
  }
}

/**
 * The syntax error of a text that is not JSON: its line, and what the browser found.
 * @param {string} text
 */
function findSyntaxError(text) {
  try {
    JSON.parse(text);
    return null;
  } catch (error) {
    const reason = error.message.replace(/ in JSON.*$| \(line.*$/, "").replace(/^JSON\.parse: /, "");
    const position = /position (\d+)/.exec(error.message);
    const line = /line (\d+)/.exec(error.message);
    if (line) return { reason, line: Number(line[1]) };
    if (position) return { reason, line: text.slice(0, Number(position[1])).split("\n").length };
    return { reason, line: text.trimEnd().split("\n").length };
  }
}

/** @param {{ status: number | string, body: any }} response */
function responseText({ status, body }) {
  const words = body && typeof body === "object" ? [body.status, body.reason] : [body];
  const text = words.filter(Boolean).join(": ");
  return [status, text].filter(Boolean).join(" ").slice(0, 200);
}

/** @param {any} body @param {string} path */
function valueAt(body, path) {
  return path.split(".").reduce((part, key) => part?.[key], body);
}

/** @param {Compose} compose */
function fieldsView(compose) {
  if (compose.isLoading) return html`<p class="quiet">Loading ...</p>`;
  let body = null;
  try {
    body = JSON.parse(compose.text);
  } catch {
    return html`<p class="quiet">The fields are back when the JSON has no syntax error.</p>`;
  }
  return FIELDS.map(({ path, label, options, isWide }) => {
    const value = valueAt(body, path);
    if (value === undefined || (value !== null && typeof value === "object")) return nothing;
    if (typeof value === "boolean") {
      return html`<label class="check"><input type="checkbox" .checked=${value}
        @change=${(/** @type {Changed} */ event) => compose.setField(path, event.target.checked)}> ${label}</label>`;
    }
    const change = onValue((text) => compose.setField(path, text));
    return html`<label class=${isWide ? "field is-wide" : "field"}><span>${label}</span>
      ${options?.includes(value)
        ? html`<select .value=${value} @change=${change}>${options.map((option) => html`<option ?selected=${option === value}>${option}</option>`)}</select>`
        : path === "comment.content" ? html`<textarea rows="2" .value=${String(value ?? "")} @input=${change}></textarea>`
          : html`<input type="text" spellcheck="false" .value=${String(value ?? "")} @input=${change}>`}</label>`;
  });
}

/** @param {Compose} compose */
function matchesView({ syntaxError, matches, rejection }) {
  if (syntaxError) return html`<p class="quiet">The JSON has a syntax error.</p>`;
  if (rejection) return html`<p class="problem">${prose(rejection)}</p>`;
  if (!matches) return html`<p class="quiet">...</p>`;
  return html`${matches.ignored ? html`<p>No handler matches: ${prose(matches.ignored)}</p>` : nothing}
    ${matches.handlers.length ? html`<ul class="matches">${matches.handlers.map((one) => html`
      <li class=${one.matches ? "is-match" : "is-other"}><span class="mark" aria-hidden="true">${one.matches ? "✓" : "–"}</span>
        <span>${prose(one.text || `\`${one.name}\` ${one.matches ? "matches" : "does not match"}`)}</span></li>`)}</ul>`
      : html`<p>No handler is registered.</p>`}`;
}

/** @param {Compose} compose @param {ComposeOptions["openDelivery"]} openDelivery */
function responsesView(compose, openDelivery) {
  return html`<ul class="responses">${compose.responses.map((response) => html`<li>
    <strong class=${response.status < 300 ? "is-good" : "is-bad"}>${response.status}</strong>
    ${responseText({ ...response, status: "" })} <span class="quiet">${Math.round(response.milliseconds * 10) / 10} ms</span>
    ${response.id && !NOT_STORED.includes(response.status) ? html`<button class="small" aria-label=${`Open delivery ${response.id}`}
      @click=${() => openDelivery(response.id ?? "")}>Open</button>` : nothing}</li>`)}</ul>`;
}

/** @param {ComposeOptions} options */
export function composeView({ compose, recent, now, message, copyAs, openDelivery }) {
  const { syntaxError } = compose;
  const goToLine = () => {
    const area = /** @type {HTMLTextAreaElement} */ (document.getElementById("compose-json"));
    const lines = compose.text.split("\n");
    const line = (syntaxError?.line ?? 1) - 1;
    const start = lines.slice(0, line).join("\n").length + Number(line > 0);
    area.focus();
    area.setSelectionRange(start, start + (lines[line] ?? "").length);
  };
  const onKey = (/** @type {KeyboardEvent} */ event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      compose.send();
    }
  };
  const changed = compose.changedLines;
  const isBusy = compose.isSending || compose.isLoading;
  return html`<dialog id="compose" class="wide" aria-labelledby="compose-title"
      @close=${() => compose.close()} @keydown=${onKey}>
    ${compose.isOpen ? html`
    <div class="dialog-head"><h2 id="compose-title">Send a delivery</h2>
      <button @click=${() => compose.close()}>Close</button></div>
    <div class="compose">
      <div class="editor">
        <label class="field is-wide"><span>Start from</span>
          <select id="compose-source" @change=${onValue((value) => compose.choose(value))}>
            ${scopes(compose.samples).map(([scope, samples]) => html`<optgroup label=${scope}>${samples.map(({ name, description }) => html`
              <option value=${`sample:${name}`} ?selected=${compose.source === `sample:${name}`}>${name}${description ? `: ${description}` : ""}</option>`)}</optgroup>`)}
            <optgroup label="Recent deliveries">${sources(compose, recent).map((row) => html`
              <option value=${`delivery:${row.id}`} ?selected=${compose.source === `delivery:${row.id}`}
                >${eventName(row)}, ${row.repo ?? ""}, ${row.state}, ${age(row.received_at, now)}</option>`)}</optgroup>
          </select></label>
        <fieldset class="fields"><legend>Quick fields</legend>${fieldsView(compose)}</fieldset>
        <label class="field is-wide"><span>JSON</span>
          <textarea id="compose-json" rows="14" spellcheck="false" autocomplete="off" wrap="off"
            aria-describedby="compose-error" aria-invalid=${syntaxError ? "true" : "false"}
            .value=${compose.text} @input=${onValue((value) => compose.setText(value))}></textarea></label>
        <div class="below"><p id="compose-error" class=${syntaxError ? "problem" : "quiet"}>${syntaxError
          && !compose.isLoading ? html`Line ${syntaxError.line}: ${syntaxError.reason}. The app gets a malformed body.`
          : changed ? `${changed} changed ${changed === 1 ? "line" : "lines"}` : "Not changed"}</p>
          ${syntaxError ? html`<button class="small" @click=${goToLine}>Go to line ${syntaxError.line}</button>` : nothing}
          <button class="small" ?disabled=${!changed} @click=${() => compose.reset()}>Reset</button></div>
      </div>
      <div class="sending">
        <h3>Matches</h3>
        <p class="quiet">Handlers run only after you send.</p>
        ${matchesView(compose)}
        <fieldset><legend>Webhook-Id</legend>
          <label class="check"><input type="radio" name="same-id" .checked=${!compose.isSameId}
            @change=${() => compose.set({ isSameId: false })}> new</label>
          <label class="check"><input type="radio" name="same-id" .checked=${compose.isSameId}
            @change=${() => compose.set({ isSameId: true })}> an id of your choice; a known one is a Replay</label>
          ${compose.isSameId ? html`<input type="text" aria-label="Webhook-Id" spellcheck="false"
            autocomplete="off" .value=${compose.id} @input=${onValue((id) => compose.set({ id }))}>` : nothing}</fieldset>
        <fieldset><legend>Secret</legend>${SECRETS.map(([value, label]) => html`
          <label class="check"><input type="radio" name="secret" .checked=${compose.secret === value}
            @change=${() => compose.set({ secret: value })}> ${label}</label>`)}</fieldset>
        <div class="actions">
          <button class="primary" id="compose-send" aria-keyshortcuts="Control+Enter"
            ?disabled=${compose.isLoading} aria-disabled=${isBusy} @click=${() => compose.send()}>Send</button>
          <button ?disabled=${compose.isLoading} aria-disabled=${isBusy} @click=${() => compose.send(5)}>Send 5 at once</button>
          ${copyButtons(["curl", "cli", "pytest"], copyAs)}
        </div>
        <p class="quiet">${bytes(new Blob([compose.text]).size)}. Ctrl+Enter sends.</p>
        ${compose.error ? html`<p class="problem">${compose.error}</p>` : nothing}
        <p role="status" class="hidden">${message}</p>
        ${responsesView(compose, openDelivery)}
      </div>
    </div>` : nothing}
  </dialog>`;
}

/**
 * The samples of each scope.
 * @param {Sample[]} samples @returns {[string, Sample[]][]}
 */
function scopes(samples) {
  /** @type {Map<string, Sample[]>} */
  const found = new Map();
  for (const sample of samples) found.set(sample.scope, [...(found.get(sample.scope) ?? []), sample]);
  return [...found];
}

/**
 * The recent deliveries, with the one that the dialog starts from.
 * @param {Compose} compose @param {Row[]} recent
 */
function sources(compose, recent) {
  const rows = recent.slice(0, RECENT);
  const id = compose.source.startsWith("delivery:") ? compose.source.slice("delivery:".length) : "";
  const own = id && !rows.some((row) => row.id === id) && recent.find((row) => row.id === id);
  return own ? [own, ...rows] : rows;
}
