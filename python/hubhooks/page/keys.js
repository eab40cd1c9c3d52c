// The keys of the page, and the dialog that lists them.

import { html, isTyping, nothing } from "./view.js";

const SETTING = "hubhooks-keys";

export const KEYS = [
  ["j, k", "next and previous delivery"],
  ["Enter", "open the delivery"],
  ["Esc", "back to the list, or close the dialog"],
  ["/", "filter"],
  ["n", "new delivery", "dev"],
  ["e", "edit and send", "dev"],
  ["r", "replay"],
  ["R", "replay all failed deliveries"],
  ["c", "copy as curl"],
  ["t", "copy as a pytest test"],
  ["1, 2, 3", "pages"],
  ["?", "this help"],
];

/** Call the action of a key, unless the user types, a dialog is open, or keys are off. */
export class Keys {
  isOn = true;

  /** @param {Record<string, (event: KeyboardEvent) => void>} actions */
  constructor(actions) {
    try {
      this.isOn = localStorage.getItem(SETTING) !== "off";
    } catch {
      // A browser can forbid storage.
    }
    document.addEventListener("keydown", (event) => this.#press(event, actions));
  }

  /** @param {boolean} isOn */
  set(isOn) {
    this.isOn = isOn;
    try {
      localStorage.setItem(SETTING, isOn ? "on" : "off");
    } catch {
      // As above: the setting lasts until the page is closed.
    }
  }

  /** @param {KeyboardEvent} event @param {Record<string, (event: KeyboardEvent) => void>} actions */
  #press(event, actions) {
    if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey) return;
    if (document.querySelector("dialog[open]")) return;
    if (event.key === "Escape") {
      actions.Escape(event);
      return;
    }
    if (!this.isOn || isTyping(event.target) || event.isComposing) return;
    const action = Object.hasOwn(actions, event.key) ? actions[event.key] : null;
    if (!action) return;
    event.preventDefault();
    action(event);
  }
}

/** @param {HelpOptions} options */
export function helpView({ keys, isOpen, isDev, close, update }) {
  return html`<dialog id="help" aria-labelledby="help-title" @close=${close}>${isOpen ? html`
    <div class="dialog-head"><h2 id="help-title">Keys</h2><button @click=${close}>Close</button></div>
    <dl class="keys">${KEYS.filter(([, , mode]) => !mode || isDev).map(([key, text]) => html`<dt>${key.split(", ").map((one) => html`<kbd>${one}</kbd> `)}</dt><dd>${text}</dd>`)}</dl>
    <p><label class="check"><input type="checkbox" .checked=${keys.isOn} @change=${(/** @type {Changed} */ event) => {
      keys.set(event.target.checked);
      update();
    }}> Keys are on. They are always off while you type.</label></p>` : nothing}</dialog>`;
}
