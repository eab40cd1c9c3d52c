// The output of the app under `hubhooks dev`, and the traceback if it does not start.

import { clock, count, fullTime, html, nothing } from "./view.js";

/** @param {App} app */
export function appState(app) {
  const handlers = count(app.handlers, "handler");
  /** @type {Record<string, string>} */
  const texts = {
    running: `${handlers}, started in ${Number(app.seconds ?? 0).toFixed(1)} s`,
    broken: app.file ? `${app.file}:${app.line}` : "see Output",
  };
  return [app.state, texts[app.state]].filter(Boolean).join(", ");
}

/** @param {App} app */
export function outputView(app) {
  return html`<section class="page" aria-labelledby="page-title">
    <h2 id="page-title" tabindex="-1">Output</h2>
    <dl class="facts">
      <dt>Target</dt><dd><code>${app.target}</code></dd>
      <dt>State</dt><dd>${appState(app)}</dd>
      ${app.started_at ? html`<dt>Started</dt><dd>${fullTime(app.started_at)}</dd>` : nothing}
      <dt>Webhook</dt><dd>${(app.webhook_urls ?? []).map((url) => html`<code class="line">${url}</code>`)}</dd>
      ${app.tunnel ? html`<dt>Tunnel</dt><dd><code>${app.tunnel}</code></dd>` : nothing}
    </dl>
    ${app.traceback ? html`<section aria-labelledby="traceback-title">
      <h3 id="traceback-title">The app does not start${app.file ? html`: <code>${app.file}</code>, line ${app.line}` : nothing}</h3>
      <pre tabindex="0" role="region" aria-label="Traceback" class="is-bad">${app.traceback}</pre>
      <p class="quiet">Save a correction: the app then starts again by itself.</p></section>` : nothing}
    <section aria-labelledby="output-title"><h3 id="output-title">Printed lines</h3>
      ${app.output?.length ? html`<ol class="output" id="output" tabindex="0" aria-labelledby="output-title">${app.output.map((line) => html`
        <li><time datetime=${line.at}>${clock(line.at)}</time> <span>${line.text}</span></li>`)}</ol>`
        : html`<p class="quiet">The app printed nothing yet.</p>`}</section>
  </section>`;
}
