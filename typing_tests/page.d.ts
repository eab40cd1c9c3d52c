// Types of the page in `python/hubhooks/page`, for `tsc`. `docs/admin.md` describes the JSON.

type Api = import("../python/hubhooks/page/api.js").Api;
type Compose = import("../python/hubhooks/page/compose.js").Compose;
type Detail = import("../python/hubhooks/page/detail.js").Detail;
type DeliveryList = import("../python/hubhooks/page/list.js").DeliveryList;
type HandlerMap = import("../python/hubhooks/page/handlers.js").HandlerMap;
type Keys = import("../python/hubhooks/page/keys.js").Keys;

/** A template of lit-html, a text, or a list of them. */
type View = unknown;
type Action = () => void;
type Announce = (text: string, isUrgent?: boolean) => void;
type CopyKind = "curl" | "cli" | "pytest" | "json";
type Json = null | boolean | number | string | Json[] | { [key: string]: Json };

/** An event of a field. */
type Changed = Event & { target: HTMLInputElement };

interface Run {
  handler: string;
  state: string;
  attempts: number;
  due_at: string | null;
  started_at: string | null;
  finished_at: string | null;
  error: string;
  traceback?: string;
}

/** A delivery of the list. */
interface Row {
  id: string;
  received_at: string;
  state: string;
  scope: string;
  action: string;
  repo: string | null;
  size: number;
  reason: string;
  is_replay: boolean;
  is_acknowledged: boolean;
  duplicates: number;
  runs: Run[];
  discussion?: { num: number; title: string } | null;
}

/** A delivery in full. */
interface Delivery extends Row {
  // Any JSON, or the text of a malformed body.
  body: any;
  body_omitted?: string;
  headers: [string, string][];
  explanations: string[];
  handlers: string[];
}

interface Attempt {
  handler: string;
  attempt: number;
  state: string;
  started_at: string | null;
  finished_at: string | null;
  error: string;
  traceback: string;
  output: string | null;
  result: string | null;
  pid: number | null;
  code: string | null;
  changed_lines?: { file: string; line: number; then: string; now: string }[];
}

interface Handler {
  name: string;
  file: string | null;
  line: number | null;
  is_async: boolean;
  filters: string[];
  policy: Record<string, unknown>;
  counts: Record<string, number>;
  last: { delivery: string; state: string; at: string } | null;
}

interface Sample {
  name: string;
  scope: string;
  description: string;
  body: Json;
}

interface Match {
  name: string;
  matches: boolean;
  text: string;
  failing: string[];
}

interface Explained {
  handlers: Match[];
  ignored: string;
}

interface Stats {
  states: Record<string, number>;
  rejections: Record<string, number>;
  body_bytes: number;
}

interface App {
  mode: "dev" | "admin";
  target: string;
  state: "starting" | "running" | "restarting" | "broken";
  handlers: number;
  seconds: number;
  started_at: string | null;
  traceback: string;
  file: string;
  line: number | null;
  output: { stream: string; text: string; at: string }[];
  webhook_urls: string[];
  webhooks: { path: string; page: string }[];
  tunnel: string;
}

/** The response to a delivery that the page sent. */
interface SentResponse {
  status: number;
  body: any;
  milliseconds: number;
  id: string | null;
}

interface Filter {
  q: string;
  state: string;
  handler: string;
}

interface ListOptions {
  list: DeliveryList;
  now: number;
  open: (id: string, options?: { focus?: boolean }) => void;
}

interface DetailActions {
  close: Action;
  replay: (handlers?: string[]) => void;
  edit: Action;
  copyAs: (kind: CopyKind) => void;
}

interface DetailOptions {
  detail: Detail;
  handlers: Handler[];
  now: number;
  isDev: boolean;
  update: Action;
  actions: DetailActions;
}

interface TreeActions {
  copy: (text: string, name: string) => void;
  filter: (text: string) => void;
}

interface HandlerOptions {
  map: HandlerMap;
  now: number;
  isDev: boolean;
  total: number;
  showDeliveries: (handler: string) => void;
  openDelivery: (id: string) => void;
  send: (sample: string) => void;
}

interface ComposeOptions {
  compose: Compose;
  recent: Row[];
  now: number;
  message: string;
  copyAs: (kind: CopyKind) => void;
  openDelivery: (id: string) => void;
}

interface HelpOptions {
  keys: Keys;
  isOpen: boolean;
  isDev: boolean;
  close: Action;
  update: Action;
}

/** A question with an action, or a text that could not be copied. */
interface Question {
  title: string;
  text?: string;
  code?: string;
  label?: string;
  run?: Action;
}
