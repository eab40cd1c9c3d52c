// The JSON API: requests with the token, and the stream of events.

const ROOT = new URL("api/", import.meta.url);
// A caller without access gets no body.
/** @type {Record<number, string>} */
const REASONS = { 401: "the admin token is missing", 403: "the admin token is wrong" };
const OTHER_SITE = "the server sees another origin than this page: a proxy must keep the `Host` header";
const FIRST_PAUSE = 300;
const LONGEST_PAUSE = 5000;
// The server sends a comment every 15 seconds.
const SILENCE = 40_000;

/** A response that is not 2xx, or no response at all (status 0). */
export class ApiError extends Error {
  /** @param {number} status @param {string} reason */
  constructor(status, reason, path = "") {
    super(reason);
    this.status = status;
    this.path = path;
  }
}

export class Api {
  #token = "";
  /** @type {AbortController | null} */
  #stop = null;

  /**
   * Called when the server rejects the token.
   * @param {string} reason
   */
  onDenied = (reason) => {};

  /**
   * Use this token for all later requests.
   * @param {string} token
   */
  signIn(token) {
    this.#token = token;
  }

  /**
   * Send a request, and return the JSON of the response.
   * @param {string} path
   * @param {{ method?: string, body?: string, query?: object, signal?: AbortSignal }} [options]
   * @returns {Promise<any>}
   */
  async request(path, options) {
    const response = await this.#fetch(path, options);
    try {
      return await response.json();
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new ApiError(0, "the response of the server is not JSON");
    }
  }

  /** @type {(...values: Parameters<Api["request"]>) => Promise<Response>} */
  async #fetch(path, { method = "GET", body, query, signal } = {}) {
    const url = new URL(path, ROOT);
    for (const [name, value] of Object.entries(query ?? {})) {
      if (value !== "" && value !== null && value !== undefined) url.searchParams.set(name, value);
    }
    /** @type {Record<string, string>} */
    const headers = { authorization: `Bearer ${this.#token}` };
    if (body !== undefined) headers["content-type"] = "application/json";
    /** @type {Response} */
    let response;
    try {
      response = await fetch(url, { method, body, headers, signal, cache: "no-store" });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new ApiError(0, "the server does not respond");
    }
    if (response.ok) return response;
    const text = await response.text().catch(() => "");
    /** @type {{ reason?: string, path?: string }} */
    let details = {};
    try {
      details = JSON.parse(text) ?? {};
    } catch {
      // A proxy can send another kind of body.
    }
    const reason = details.reason || REASONS[response.status]
      || `the server responded with ${response.status}`;
    if (response.status === 403 && method === "POST" && await this.#isTokenRight()) {
      throw new ApiError(403, OTHER_SITE);
    }
    if (response.status === 401 || response.status === 403) this.onDenied(reason);
    throw new ApiError(response.status, reason, details.path);
  }

  /** A browser names the origin of a page only with POST, so only then a proxy can change it. */
  async #isTokenRight() {
    const headers = { authorization: `Bearer ${this.#token}` };
    const response = await fetch(new URL("app", ROOT), { headers, cache: "no-store" }).catch(() => null);
    return response?.ok ?? false;
  }

  /**
   * Read the stream until `close`, and connect again when it ends.
   * @param {(name: string, data: any) => void} onEvent
   * @param {(isConnected: boolean) => void} onConnection
   */
  open(onEvent, onConnection) {
    this.close();
    const stop = new AbortController();
    this.#stop = stop;
    this.#follow(onEvent, onConnection, stop.signal);
  }

  close() {
    this.#stop?.abort();
    this.#stop = null;
  }

  /**
   * @param {(name: string, data: any) => void} onEvent
   * @param {(isConnected: boolean) => void} onConnection
   * @param {AbortSignal} signal
   */
  async #follow(onEvent, onConnection, signal) {
    let after = "";
    let pause = FIRST_PAUSE;
    while (!signal.aborted) {
      const attempt = new AbortController();
      const abort = () => attempt.abort();
      signal.addEventListener("abort", abort, { once: true });
      let timer = setTimeout(abort, SILENCE);
      try {
        const { body } = await this.#fetch("events", { query: { after }, signal: attempt.signal });
        if (!body) throw new ApiError(0, "the stream is empty");
        const reader = body.pipeThrough(new TextDecoderStream()).getReader();
        let rest = "";
        for (;;) {
          const { value, done } = await reader.read();
          if (done) break;
          clearTimeout(timer);
          timer = setTimeout(abort, SILENCE);
          const blocks = (rest + value).replaceAll("\r\n", "\n").split("\n\n");
          rest = blocks.pop() ?? "";
          for (const block of blocks) {
            const event = readEvent(block);
            if (event.id) after = event.id;
            if (event.name === "ready") {
              after = String(event.data.after);
              pause = FIRST_PAUSE;
              onConnection(true);
            }
            if (event.name) onEvent(event.name, event.data);
          }
        }
      } catch (error) {
        if (error.status === 401 || error.status === 403) return;
      } finally {
        clearTimeout(timer);
        signal.removeEventListener("abort", abort);
        attempt.abort();
      }
      if (signal.aborted) return;
      onConnection(false);
      await new Promise((resolve) => setTimeout(resolve, pause));
      pause = Math.min(pause * 2, LONGEST_PAUSE);
    }
  }
}

/**
 * Read one event of a stream; a comment has no name.
 * @param {string} block
 */
function readEvent(block) {
  const event = { name: "", id: "", data: /** @type {any} */ (null) };
  const data = [];
  for (const line of block.split("\n")) {
    const at = line.indexOf(":");
    if (at < 1) continue;
    const field = line.slice(0, at);
    const value = line.slice(at + 1).replace(/^ /, "");
    if (field === "event") event.name = value;
    else if (field === "id") event.id = value;
    else if (field === "data") data.push(value);
  }
  if (event.name) event.data = JSON.parse(data.join("\n") || "null");
  return event;
}
