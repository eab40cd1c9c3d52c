// The page: sign-in, routes, the stream, and the actions of keys and buttons.

import { Api } from "./api.js";
import { asCli, asCurl, asPytest, bodyText } from "./commands.js";
import { Compose, composeView } from "./compose.js";
import { Detail, detailView } from "./detail.js";
import { HandlerMap, handlersView } from "./handlers.js";
import { Keys, helpView } from "./keys.js";
import { DeliveryList, listView } from "./list.js";
import { appState, outputView } from "./output.js";
import { bytes, count, debounced, html, nothing, onValue, prose, render } from "./view.js";

const TICK = 1000;
const MESSAGE_TIME = 10_000;
const ANNOUNCE_PAUSE = 2000;
const RELOAD_PAUSE = 400;
const MOST_REPLAYS = 500;
const HIDDEN_PAUSE = 3000;
const NARROW = matchMedia("(max-width: 52rem)");

const state = {
  isSignedIn: false,
  isSigningIn: false,
  denied: "",
  page: "deliveries",
  /** @type {App | null} */
  app: null,
  /** @type {Stats | null} */
  stats: null,
  isConnected: false,
  message: "",
  isHelpOpen: false,
  /** @type {Question | null} */
  question: null,
  now: Date.now(),
};

let isScheduled = false;

/** Render once for all changes before the next task. */
function update() {
  if (isScheduled) return;
  isScheduled = true;
  queueMicrotask(() => {
    isScheduled = false;
    draw();
  });
}

const api = new Api();
const list = new DeliveryList(api, update);
const detail = new Detail(api, update, { copy, filter: filterBy });
const map = new HandlerMap(api, update);
const compose = new Compose(api, update, announce);

const isDev = () => state.app?.mode === "dev";
/** An app that does not run cannot match samples. */
const isAppRunning = () => !isDev() || state.app?.state === "running";

// Messages: one element shows them and is the live region.

let lastMessage = 0;
let messageTimer = 0;
const arrivals = { fresh: 0, failed: 0 };

/**
 * Show a message. A message that is not urgent waits until the last one is 2 seconds old.
 * @param {string} text
 */
function announce(text, isUrgent = false) {
  clearTimeout(messageTimer);
  const wait = isUrgent ? 0 : Math.max(0, lastMessage + ANNOUNCE_PAUSE - Date.now());
  messageTimer = setTimeout(() => {
    lastMessage = Date.now();
    Object.assign(arrivals, { fresh: 0, failed: 0 });
    state.message = text;
    update();
    messageTimer = setTimeout(() => {
      state.message = "";
      update();
    }, MESSAGE_TIME);
  }, wait);
}

/** @param {Row} row @param {boolean} isFresh */
function announceArrival(row, isFresh) {
  arrivals.fresh += Number(isFresh);
  arrivals.failed += Number(row.state === "failed");
  if (!arrivals.fresh && !arrivals.failed) return;
  const texts = [
    arrivals.fresh ? count(arrivals.fresh, "new delivery", "new deliveries") : "",
    arrivals.failed ? `${arrivals.failed} failed` : "",
  ];
  announce(texts.filter(Boolean).join(", "));
}

// Sign-in: the token comes from the fragment of the URL or from the form, and stays in memory.
// Under `hubhooks dev`, the history of the tab keeps it too: a reload needs no URL of the terminal.

let keptToken = "";

/** @param {string} [path] */
function keepToken(path) {
  history.replaceState(keptToken ? { token: keptToken } : null, "", path);
}

/** @param {string} token */
async function signIn(token) {
  if (!/^[\x21-\x7e\x80-\xff][\x20-\x7e\x80-\xff]*$/.test(token)) {
    state.denied = token ? "the token is wrong" : "the token is missing";
    update();
    return;
  }
  api.signIn(token);
  Object.assign(state, { isSigningIn: true, denied: "" });
  update();
  try {
    state.app = await api.request("app");
    state.isSignedIn = true;
    keptToken = isDev() ? token : "";
    keepToken();
    list.load();
    map.load();
    loadStats();
    api.open(onEvent, onConnection);
  } catch (error) {
    state.denied = error.message;
  }
  state.isSigningIn = false;
  applyRoute();
  if (!state.isSignedIn) focusLater("token");
}

api.onDenied = (reason) => {
  api.close();
  keptToken = "";
  keepToken();
  compose.isOpen = false;
  Object.assign(state, {
    isSignedIn: false, denied: reason, isConnected: false, isHelpOpen: false, question: null,
  });
  update();
};

// Routes: `#/deliveries`, `#/deliveries/<id>`, `#/handlers`, `#/output`. Other fragments are tokens.

function readHash() {
  const hash = location.hash.slice(1);
  if (hash && !hash.startsWith("/")) {
    history.replaceState(null, "", "#/deliveries");
    let token = hash;
    try {
      token = decodeURIComponent(hash);
    } catch {
      // A token can have a percent sign.
    }
    signIn(token);
    return;
  }
  if (!state.isSignedIn && history.state?.token) signIn(history.state.token);
  else if (keptToken) keepToken();
  applyRoute();
}

function applyRoute() {
  const [page, id = ""] = location.hash.slice(2).split("/");
  const known = ["deliveries", "handlers", ...(isDev() ? ["output"] : [])];
  const isNew = state.page !== page;
  state.page = known.includes(page) ? page : "deliveries";
  if (state.isSignedIn) {
    let open = "";
    try {
      open = state.page === "deliveries" ? decodeURIComponent(id) : list.selected;
    } catch {
      open = "";
    }
    list.selected = open;
    if (open && !list.active) list.active = open;
    detail.open(open);
    if (state.page === "handlers") {
      if (isNew) map.load();
      // Under `hubhooks dev`, each restart clears the results.
      const isOld = isNew && !isDev();
      if (isAppRunning() && (isOld || !map.isComplete)) map.compute();
    }
  }
  update();
}

/** @param {string} path */
function go(path) {
  if (location.hash !== `#${path}`) {
    history.pushState(null, "", `#${path}`);
    keepToken();
  }
  applyRoute();
}

/** @param {string} page */
function showPage(page) {
  const isOpen = page === "deliveries" && list.selected && state.page !== page;
  go(isOpen ? `/deliveries/${encodeURIComponent(list.selected)}` : `/${page}`);
  if (page !== "deliveries") focusLater("page-title");
}

/** @param {string} id */
function openDelivery(id, { focus = false } = {}) {
  if (!id) return;
  list.active = id;
  go(`/deliveries/${encodeURIComponent(id)}`);
  if (focus || NARROW.matches) focusLater("detail-title");
}

/** @param {string} text */
function filterBy(text) {
  list.setFilter({ q: text, state: "", handler: "" });
  if (NARROW.matches) closeDetail();
  announce(`Filter: ${text}`, true);
}

function closeDetail() {
  const id = list.selected;
  go("/deliveries");
  setTimeout(() => (list.element(id) ?? list.element(list.activeRow?.id ?? ""))?.focus());
}

/**
 * Focus an element after the next render.
 * @param {string} id
 */
function focusLater(id) {
  setTimeout(() => document.getElementById(id)?.focus());
}

// The stream

const loadStats = debounced(async () => {
  state.stats = await api.request("stats").catch(() => state.stats);
  update();
}, 0);
const reloadHandlers = debounced(() => {
  if (state.page === "handlers") map.load();
}, RELOAD_PAUSE);

/** @param {string} name @param {any} data */
function onEvent(name, data) {
  if (name === "ready") {
    // What changed while the stream was closed is only in a new list.
    list.load();
    loadStats();
    detail.reloadSoon();
  } else if (name === "delivery") {
    reloadHandlers();
    announceArrival(data, list.apply(data));
    if (data.id === detail.id) detail.reloadSoon();
  } else if (name === "stats") {
    if (data?.states) state.stats = data;
    else loadStats();
    reloadHandlers();
  } else if (name === "app" && data) {
    onApp(data);
  }
  update();
}

/** @param {App} app */
async function onApp(app) {
  const before = state.app;
  state.app = app;
  if (app.state === before?.state) {
    // A quick restart can fall between two events.
    if (app.started_at === before.started_at) return;
  } else announce(`The app is ${appState(app)}`, app.state === "broken");
  if (app.state === "running") {
    // Other handlers may match the open delivery.
    detail.reloadSoon();
    await map.load();
    if (compose.isOpen) compose.explainSoon();
    if (state.page === "handlers") map.compute();
    else map.results = new Map();
  }
}

/** @param {boolean} isConnected */
function onConnection(isConnected) {
  state.isConnected = isConnected;
  update();
}

// Actions

/** The delivery that keys act on: the row with the focus, else the open one. */
function targetId() {
  /** @type {HTMLElement | null | undefined} */
  const row = document.activeElement?.closest("#rows > [data-id]");
  return row?.dataset.id ?? (list.selected || list.activeRow?.id || "");
}

/** @param {string} id @returns {Promise<Delivery>} */
async function wholeDelivery(id) {
  if (detail.id === id && detail.data) return detail.data;
  return api.request(`deliveries/${encodeURIComponent(id)}`);
}

/**
 * Run an action; an error becomes the message.
 * @param {() => Promise<void>} action
 */
async function attempt(action) {
  try {
    await action();
  } catch (error) {
    announce(error.message, true);
  }
}

/** @param {string} id @param {string[]} [handlers] */
function replay(id, handlers) {
  if (!id) return;
  attempt(async () => {
    const body = handlers ? JSON.stringify({ handlers }) : undefined;
    const path = `deliveries/${encodeURIComponent(id)}/replay`;
    const result = await api.request(path, { method: "POST", body });
    announce(`Replay: ${result.handlers.join(", ")}`, true);
    if (id === detail.id) detail.reloadSoon();
  });
}

function replayFailed() {
  attempt(async () => {
    const { deliveries, total } = await api.request("deliveries", {
      query: { state: "failed", limit: MOST_REPLAYS },
    });
    if (!deliveries.length) {
      announce("No delivery failed", true);
      return;
    }
    const limit = total > deliveries.length ? ` The newest of ${total.toLocaleString("en")}.` : "";
    state.question = {
      title: `Replay ${count(deliveries.length, "failed delivery", "failed deliveries")}?`,
      text: `All their handlers run again.${limit}`,
      label: "Replay",
      run: () => attempt(() => replayAll(deliveries)),
    };
    update();
  });
}

/** @param {Row[]} deliveries */
async function replayAll(deliveries) {
  let done = 0;
  let reason = "";
  for (const { id } of deliveries) {
    try {
      await api.request(`deliveries/${encodeURIComponent(id)}/replay`, { method: "POST" });
      done += 1;
    } catch (error) {
      reason = error.message;
    }
  }
  const rest = deliveries.length - done;
  announce(`Replay of ${done}${rest ? `, not of ${rest}: ${reason}` : ""}`, true);
}

/** @param {string} id */
function edit(id) {
  if (!id || !isDev()) return;
  attempt(async () => {
    const delivery = await wholeDelivery(id);
    if (delivery.body === null) throw new Error("the body of this delivery is not available");
    compose.open({ delivery });
  });
}

/** @param {string} text @param {string} name */
async function copy(text, name) {
  try {
    await navigator.clipboard.writeText(text);
    announce(`Copied ${name}`, true);
  } catch {
    // Without TLS a browser has no clipboard.
    state.question = { title: `Copy ${name}`, code: text };
    update();
  }
}

/** @param {string} id @returns {Promise<Attempt[]>} */
async function attemptsOf(id) {
  if (detail.id === id && detail.data) return detail.attempts;
  return (await api.request(`deliveries/${encodeURIComponent(id)}/attempts`)).attempts;
}

/** Open the dialog. At first, it has a sample that a handler matches. */
function newDelivery() {
  compose.open({
    preferred: async () => {
      if (!map.isComplete && isAppRunning()) await map.compute();
      return map.matched();
    },
  });
}

/** @type {Record<CopyKind, (body: Json, facts: Omit<Parameters<typeof asPytest>[1], "target">) => [string, string]>} */
const COPIES = {
  curl: (body) => [asCurl(body, state.app?.webhook_urls), "a curl command"],
  cli: (body) => [asCli(body, state.app?.webhook_urls), "a hubhooks command"],
  pytest: (body, facts) => [asPytest(body, { ...facts, target: state.app?.target }), "a test: save it as test_app.py"],
  json: (body) => [bodyText(body), "the body"],
};

/** @param {CopyKind} kind @param {string} id */
function copyAs(kind, id) {
  if (!id) return;
  attempt(async () => {
    const { body, scope, action, runs } = await wholeDelivery(id);
    if (body === null) throw new Error("the body of this delivery is not available");
    const attempts = kind === "pytest" ? await attemptsOf(id) : [];
    const handlers = runs.map(({ handler, state: end }) => {
      const last = attempts.findLast((one) => one.handler === handler);
      return { name: handler, value: end === "succeeded" ? last?.result ?? "" : "" };
    });
    await copy(...COPIES[kind](body, { scope, action, handlers }));
  });
}

/** @param {CopyKind} kind */
function copyComposed(kind) {
  /** @type {any} */
  let body = compose.text;
  try {
    body = JSON.parse(compose.text);
  } catch {
    // A malformed body is copied as text.
  }
  const handlers = (compose.matches?.handlers ?? []).filter((one) => one.matches);
  const { scope, action } = body?.event ?? {};
  attempt(() => copy(...COPIES[kind](body, { scope, action, handlers })));
}

/** @type {DetailActions} */
const detailActions = {
  close: closeDetail,
  replay: (handlers) => replay(detail.id, handlers),
  edit: () => edit(detail.id),
  copyAs: (kind) => copyAs(kind, detail.id),
};

/** @param {Action} action */
function ifDeliveries(action) {
  return () => {
    if (state.isSignedIn && state.page === "deliveries") action();
  };
}

const keys = new Keys({
  j: ifDeliveries(() => list.move(1)),
  k: ifDeliveries(() => list.move(-1)),
  "/": ifDeliveries(() => {
    if (NARROW.matches && list.selected) closeDetail();
    setTimeout(() => document.getElementById("filter")?.focus());
  }),
  n: () => void (state.isSignedIn && isDev() && newDelivery()),
  e: ifDeliveries(() => edit(targetId())),
  r: ifDeliveries(() => replay(targetId())),
  R: ifDeliveries(replayFailed),
  c: ifDeliveries(() => copyAs("curl", targetId())),
  t: ifDeliveries(() => copyAs("pytest", targetId())),
  1: () => state.isSignedIn && showPage("deliveries"),
  2: () => state.isSignedIn && showPage("handlers"),
  3: () => state.isSignedIn && isDev() && showPage("output"),
  "?": () => {
    state.isHelpOpen = true;
    update();
  },
  Escape: (event) => {
    if (document.activeElement?.id === "filter") list.element(list.activeRow?.id ?? "")?.focus();
    else if (state.page === "deliveries" && list.selected) closeDetail();
  },
});

// Views

function signInView() {
  const submit = (/** @type {SubmitEvent} */ event) => {
    event.preventDefault();
    const form = /** @type {HTMLFormElement} */ (event.target);
    signIn(form.token.value.trim());
  };
  return html`<main class="sign-in"><h1>hubhooks</h1>
    ${state.isSigningIn ? html`<p role="status">Signing in ...</p>` : html`
    <p>Enter the admin token of the app. For <code>hubhooks dev</code>, open the URL that it printed.</p>
    <form @submit=${submit}>
      <label class="field"><span>Admin token</span>
        <input type="password" id="token" name="token" autocomplete="current-password" required
          aria-describedby="denied" aria-invalid=${state.denied ? "true" : "false"}></label>
      <p id="denied" class="problem" role="alert">${state.denied}</p>
      <button type="submit" class="primary">Sign in</button>
    </form>`}</main>`;
}

/**
 * Each webhook of an app has a store, and so a page of its own.
 * @param {App} app
 */
function webhookChoice({ webhooks }) {
  return html`<label class="webhook">Webhook <select aria-label="Webhook" @change=${onValue((page) => location.assign(`${page}#${keptToken}`))}>
    ${webhooks.map(({ path, page }, at) => html`<option value=${page} ?selected=${page === location.pathname}>${path || `number ${at + 1}`}</option>`)}
  </select></label>`;
}

/** @param {App} app */
function headerView(app) {
  const pages = [["deliveries", "Deliveries"], ["handlers", "Handlers"], ...(isDev() ? [["output", "Output"]] : [])];
  return html`<header>
    <h1>hubhooks</h1>
    <nav aria-label="Pages">${pages.map(([page, name]) => html`<a href=${`#/${page}`}
      aria-current=${state.page === page ? "page" : nothing}
      @click=${(/** @type {Event} */ event) => {
        event.preventDefault();
        showPage(page);
      }}>${name}</a>`)}</nav>
    ${(app.webhooks?.length ?? 0) > 1 ? webhookChoice(app) : nothing}
    ${isDev() ? html`<p class="app-state is-${app.state}"><code>${app.target}</code> ${appState(app)}</p>` : nothing}
    ${isDev() && app.tunnel ? html`<p class="tunnel"><span>Public URL:</span>
      <button class="small" title=${app.tunnel} @click=${() => copy(app.tunnel, "the tunnel command")}
        >Copy the ${app.tunnel.split(" ")[0]} command</button></p>` : nothing}
    <p class="connection ${state.isConnected ? "is-live" : "is-lost"}"><span class="mark" aria-hidden="true">${state.isConnected ? "●" : "○"}</span> ${state.isConnected ? "live" : "connecting ..."}</p>
    ${isDev() ? html`<button class="primary new" aria-keyshortcuts="n" @click=${newDelivery}>New <span class="hint">(n)</span></button>` : nothing}
  </header>`;
}

function total() {
  return Object.values(state.stats?.states ?? {}).reduce((sum, number) => sum + number, 0);
}

function footerView() {
  const { stats } = state;
  const rejected = Object.entries(stats?.rejections ?? {}).filter(([, number]) => number);
  return html`<footer>
    <p role="status" class="message">${state.message}</p>
    ${rejected.length ? html`<p class="rejected">rejected: ${rejected.map(([reason, number]) => `${reason} ${number}`).join(", ")}</p>` : nothing}
    ${stats ? html`<p>${count(total(), "delivery", "deliveries")}, ${bytes(stats.body_bytes ?? 0)}</p>` : nothing}
    <button class="small" aria-keyshortcuts="?" @click=${() => {
      state.isHelpOpen = true;
      update();
    }}>Keys <span class="hint">(?)</span></button>
  </footer>`;
}

function startView() {
  const url = state.app?.webhook_urls?.[0];
  return html`<div class="empty"><p>No deliveries yet.</p>
    ${url ? html`<p>Webhook URL:</p><pre tabindex="0" role="region" aria-label="Webhook URL">${url}</pre>
      <p>Send a sample:</p><pre tabindex="0" role="region" aria-label="Command">hubhooks send ${url} --sample discussion.comment.create</pre>` : nothing}
    ${isDev() ? html`<p><button class="primary" @click=${newDelivery}>New delivery</button></p>` : nothing}</div>`;
}

/** @param {App} app */
function pageView(app) {
  const { now, page } = state;
  if (page === "handlers") {
    return handlersView({
      map, now, isDev: isDev(), total: total(),
      showDeliveries: (handler) => {
        list.setFilter({ q: "", state: "", handler });
        list.selected = "";
        showPage("deliveries");
        focusLater("filter");
      },
      openDelivery: (id) => openDelivery(id, { focus: true }),
      send: (sample) => compose.open({ sample }),
    });
  }
  if (page === "output") return outputView(app);
  return html`<div class=${list.selected ? "deliveries has-detail" : "deliveries"}>
    ${listView({ list, now, open: openDelivery, stats: state.stats, handlers: map.handlers, start: startView() })}
    ${detailView({ detail, handlers: map.handlers, now, isDev: isDev(), update, actions: detailActions })}
  </div>`;
}

function questionView() {
  const { question } = state;
  const close = () => {
    state.question = null;
    update();
  };
  return html`<dialog id="question" aria-labelledby="question-title" @close=${close}>${question ? html`
    <h2 id="question-title">${question.title}</h2>
    ${question.text ? html`<p>${question.text}</p>` : nothing}
    ${question.code ? html`<textarea readonly rows="8" aria-label="Text to copy" .value=${question.code}
      @focus=${(/** @type {Changed} */ event) => event.target.select()}></textarea>` : nothing}
    <div class="actions">${question.run ? html`<button class="primary" @click=${() => {
      close();
      question.run?.();
    }}>${question.label}</button>` : nothing}
      <button @click=${close}>${question.run ? "Cancel" : "Close"}</button></div>` : nothing}</dialog>`;
}

/** @param {string} text */
function lastLine(text) {
  return text.trimEnd().split("\n").at(-1) ?? "";
}

function draw() {
  const root = document.getElementById("app");
  const { app } = state;
  if (!state.isSignedIn || !app) {
    document.title = "hubhooks";
    openDialogs.clear();
    render(signInView(), root);
    return;
  }
  const broken = isDev() && app.state === "broken" && state.page !== "output";
  document.title = `${state.page[0].toUpperCase()}${state.page.slice(1)}, ${app.target ?? "hubhooks"}`;
  render(html`<div class="frame">
    ${headerView(app)}
    <main>${broken ? html`<div class="banner"><p>The app does not start${app.file ? html`: <code>${app.file}:${app.line}</code>` : nothing}. ${prose(lastLine(app.traceback))}</p>
      <button @click=${() => showPage("output")}>Show the traceback</button></div>` : nothing}
      ${pageView(app)}</main>
    ${footerView()}</div>
    ${isDev() ? composeView({
      compose, recent: list.rows, now: state.now, message: state.message, copyAs: copyComposed,
      openDelivery: (id) => {
        compose.close();
        openDelivery(id, { focus: true });
      },
    }) : nothing}
    ${helpView({
      keys, isOpen: state.isHelpOpen, isDev: isDev(), update,
      close: () => {
        state.isHelpOpen = false;
        update();
      },
    })}
    ${questionView()}`, root);
  showDialog("compose", compose.isOpen, "#compose-source");
  showDialog("help", state.isHelpOpen);
  showDialog("question", state.question !== null, "textarea");
}

/** @type {Set<string>} */
const openDialogs = new Set();

/**
 * Open or close a dialog. The browser gives the focus back when it closes.
 * @param {string} id @param {boolean} isOpen
 */
function showDialog(id, isOpen, first = "") {
  const dialog = /** @type {HTMLDialogElement | null} */ (document.getElementById(id));
  if (!isOpen) {
    openDialogs.delete(id);
    if (dialog?.open) dialog.close();
    return;
  }
  // After Esc a dialog is closed, and its event `close` is still to come: do not open it again.
  if (!dialog || openDialogs.has(id)) return;
  openDialogs.add(id);
  dialog.addEventListener("close", keepFocus, { once: true });
  dialog.showModal();
  const element = first ? dialog.querySelector(first) : null;
  if (element instanceof HTMLElement) element.focus();
}

/**
 * Give the focus a place after a dialog that was opened while nothing had it.
 * @param {Event} event
 */
function keepFocus(event) {
  const dialog = /** @type {HTMLElement} */ (event.target);
  const focused = /** @type {HTMLElement} */ (document.activeElement ?? document.body);
  if (focused !== document.body && !dialog.contains(focused)) return;
  focused.blur();
  const ids = ["detail-title", "page-title"];
  const row = list.element(list.activeRow?.id ?? "");
  [...ids.map((id) => document.getElementById(id)), row].find(Boolean)?.focus();
}

window.addEventListener("hashchange", readHash);
setInterval(() => {
  state.now = Date.now();
  if (!document.hidden && state.isSignedIn) update();
}, TICK);

let pauseTimer = 0;
let isPaused = false;

/** Close the stream of a hidden tab: all tabs of a browser share six connections to a server. */
function pauseStream() {
  if (!state.isSignedIn) return;
  isPaused = true;
  api.close();
  onConnection(false);
}

document.addEventListener("visibilitychange", () => {
  state.now = Date.now();
  clearTimeout(pauseTimer);
  if (document.hidden) pauseTimer = setTimeout(pauseStream, HIDDEN_PAUSE);
  else if (isPaused) {
    isPaused = false;
    if (state.isSignedIn) api.open(onEvent, onConnection);
  }
  update();
});
update();
readHash();
