/**
 * The HTTP API: signing in, and the few routes that the page reads.
 *
 * @typedef {{id: string, username: string, email: string, role: string}} User
 */

import { browser } from "./kept.js";

const STORE_KEY = "lectern.account";
const LEFT_KEY = "lectern.left";
const SILENCE_MS = 10_000; // a long answer over a slow network may take longer, as long as it comes
const REPLACED_MS = 2_000; // so long another tab's new tokens are waited for

/** What the server refused, with RFC 9457's members. `status` 0: it could not be reached at all. */
export class Problem extends Error {
  constructor(status, body = {}, retryAfterS = null) {
    super(body.detail || body.title || `HTTP ${status}`);
    this.name = "Problem";
    this.status = status;
    this.code = body.code ?? (status === 0 ? "unreachable" : "unknown");
    /** @type {{pointer: string, detail: string}[]} */
    this.errors = body.errors ?? [];
    this.retryAfterS = retryAfterS;
    this.body = body;
  }
}

const WORDS = {
  unreachable: "The server cannot be reached. Check the connection and try again.",
  bad_credentials: "That user name and password do not go together.",
  wrong_password: "The current password is another one.",
  bad_token: "This link was used already, or is too old. Ask for another one.",
  not_configured: "This server is not set up for that.",
  username_taken: "That user name is taken. Try another.",
  email_taken: "There is an account with that e-mail address already.",
  quota_exceeded: "There is no room for this file. Delete some first.",
  body_too_large: "This file is too large.",
  unsupported_media_type: "Files of this kind are not taken.",
  idempotency_key_in_use: "That is on its way already. Wait a moment, then look again.",
  topic_locked: "This question is locked: no more answers.",
  topic_has_posts: "Others have answered: the question stays.",
  till_blocked: "What takes your card did not come. Allow this page to load it, or check the connection, and try again.",
  card_declined: "The card was declined, and nothing was charged. Try another one.",
  already_subscribed: "You have a subscription already.",
  already_enrolled: "You have this course already.",
  purchase_pending: "This purchase is under way. Wait a moment, then look again.",
  not_entitled: "This lecture is for those who take the course.",
  payment_required: "This course has to be bought first.",
  too_many_sessions: "You are watching in several places already.",
};

/** A failure in words for the person before the screen. @param {unknown} error */
export function explain(error) {
  if (!(error instanceof Problem)) return "Something went wrong on this page. Reload it and try again.";
  if (WORDS[error.code]) return WORDS[error.code];
  if (error.status === 401) return "You are not signed in any more. Sign in to go on.";
  if (error.status === 429) return `Too many tries. Wait ${error.retryAfterS ?? "a few"} seconds and try again.`;
  if (error.status === 404) return "That is not here, or no longer.";
  if (error.status >= 500) return "A part of the server is away for the moment. Try again shortly.";
  const faults = error.errors.map(({ pointer, detail }) => [pointer.split("/").at(-1).replaceAll("_", " "), detail]);
  return sentence(faults.map(([name, detail]) => (name ? `${name}: ${detail}` : detail)).join("; ") || error.message);
}

/** Whether it may go better by itself: the network is away, or a part of the server. @param {unknown} error */
export function isAway({ status, code }) {
  return status === 0 || (status >= 500 && code !== "not_configured");
}

/** @param {string} text */
export function sentence(text) {
  const trimmed = text.trim();
  if (!trimmed) return "";
  const capital = trimmed[0].toUpperCase() + trimmed.slice(1);
  return /[.!?…]$/.test(capital) ? capital : `${capital}.`;
}

/** Events: `account`, when somebody signs in or out, here or in another tab; `left`, when they sign out in another. */
export class Api extends EventTarget {
  // What the server's clock showed last, and when; ours may jump, and be days off.
  #told = { date: Date.now(), at: performance.now() };
  #refreshing = null;

  constructor() {
    super();
    window.addEventListener("storage", (event) => {
      if (event.key === STORE_KEY) this.dispatchEvent(new Event("account"));
      if (event.key === LEFT_KEY && event.newValue) this.dispatchEvent(new Event("left"));
    });
  }

  /** Ms since 1970 by the server's clock, to a second. */
  get serverNow() {
    return this.#told.date + performance.now() - this.#told.at;
  }

  /** @returns {User|null} */
  get user() {
    return this.#account?.user ?? null;
  }

  /** @returns {string|null} */
  get accessToken() {
    return this.#account?.access_token ?? null;
  }

  get #account() {
    try {
      return JSON.parse(browser.get(STORE_KEY));
    } catch {
      return null;
    }
  }

  #keep(account) {
    if (account) browser.set(STORE_KEY, JSON.stringify(account));
    else browser.remove(STORE_KEY);
  }

  async signIn(login, password) {
    await this.#enter("/api/auth/login", { login, password });
  }

  async register(username, email, password) {
    await this.#enter("/api/auth/register", { username, email, password });
  }

  async #enter(path, body) {
    const { user, access_token, refresh_token } = await this.#send("POST", path, { body });
    this.#keep({ user, access_token, refresh_token });
    this.dispatchEvent(new Event("account"));
  }

  me() {
    return this.call("GET", "/api/auth/me");
  }

  /** The present pair of tokens is renewed: those of before end with the password. */
  async changePassword(current_password, new_password) {
    await this.call("PUT", "/api/auth/me/password", { current_password, new_password });
    // It is changed, whatever becomes of this: the next call asks again.
    await this.refresh().catch(() => {});
  }

  /** Whether one gets mails about what is unread in the forums. */
  async digest() {
    return (await this.call("GET", "/api/forums/digest")).enabled;
  }

  setDigest(enabled) {
    return this.call("PUT", "/api/forums/digest", { enabled });
  }

  /** @param {string} token  of a mail's link */
  unsubscribe(token) {
    return this.#send("POST", `/api/forums/digest/unsubscribe?token=${encodeURIComponent(token)}`);
  }

  /** All that is kept about one. */
  exportMe() {
    return this.call("GET", "/api/auth/me/export");
  }

  /** The account is erased, and nobody is signed in here any more. */
  async erase(current_password) {
    await this.call("DELETE", "/api/auth/me", { current_password });
    this.#keep(null);
    this.dispatchEvent(new Event("account"));
  }

  resendVerification() {
    return this.call("POST", "/api/auth/email/verify/resend");
  }

  verifyEmail(token) {
    return this.#send("POST", "/api/auth/email/verify", { body: { token } });
  }

  forgotPassword(email) {
    return this.#send("POST", "/api/auth/password/forgot", { body: { email } });
  }

  resetPassword(token, new_password) {
    return this.#send("POST", "/api/auth/password/reset", { body: { token, new_password } });
  }

  async signOut() {
    const refresh_token = this.#account?.refresh_token;
    this.#keep(null);
    browser.set(LEFT_KEY, "now"); // other tabs hear of it
    browser.remove(LEFT_KEY);
    this.dispatchEvent(new Event("account"));
    if (refresh_token) await this.#send("POST", "/api/auth/logout", { body: { refresh_token } }).catch(() => {});
  }

  /** The first page of the courses in which these words are; of all of them when there are none. @param {string} [words] */
  courses(words) {
    return this.call("GET", `/api/courses?limit=24${words ? `&q=${encodeURIComponent(words)}` : ""}`);
  }

  /** What is left of a list. @param {string} next  as the page before says it */
  more(next) {
    return this.call("GET", next);
  }

  /** Where to go on, the course last watched first. */
  async continuations() {
    return (await this.call("GET", "/api/progress/me/continue?limit=3")).items;
  }

  course(courseId) {
    return this.call("GET", `/api/courses/${courseId}`);
  }

  /** All of them, however many. */
  async lectures(courseId) {
    const items = [];
    for (let next = `/api/courses/${courseId}/lectures?limit=100`; next; ) {
      const page = await this.call("GET", next);
      items.push(...page.items);
      next = page.next;
    }
    return items;
  }

  lecture(lectureId) {
    return this.call("GET", `/api/lectures/${lectureId}`);
  }

  enrol(courseId) {
    return this.call("POST", "/api/enrollments", { course_id: courseId });
  }

  /** Who takes cards, and how: `{provider, publishable_key, script_url}`. */
  paymentProvider() {
    return this.call("GET", "/api/payments/provider");
  }

  async paymentMethods() {
    return (await this.call("GET", "/api/payments/methods")).items;
  }

  addPaymentMethod(token) {
    return this.call("POST", "/api/payments/methods", { token });
  }

  deletePaymentMethod(methodId) {
    return this.call("DELETE", `/api/payments/methods/${methodId}`);
  }

  /** @param {string} key  the same for the same purchase, however often it is sent */
  purchase(courseId, payment_method_id, key) {
    return this.call("POST", `/api/payments/purchase/course/${courseId}`, { payment_method_id }, { "Idempotency-Key": key });
  }

  async plans() {
    return (await this.call("GET", "/api/payments/plans?limit=100")).items;
  }

  async subscriptions() {
    return (await this.call("GET", "/api/payments/subscriptions")).items;
  }

  subscribe(wish, key) {
    return this.call("POST", "/api/payments/subscribe", wish, { "Idempotency-Key": key });
  }

  subscription(subscriptionId) {
    return this.call("GET", `/api/payments/subscriptions/${subscriptionId}`);
  }

  changeSubscription(subscriptionId, wish) {
    return this.call("PUT", `/api/payments/subscriptions/${subscriptionId}`, wish);
  }

  endSubscription(subscriptionId) {
    return this.call("DELETE", `/api/payments/subscriptions/${subscriptionId}`);
  }

  /** For administrators: events of Stripe that were of no use, the newest. */
  async deadEvents() {
    return (await this.call("GET", "/api/ops/events?limit=100")).items;
  }

  /** For administrators: jobs that were given up, the newest. */
  async deadJobs() {
    return (await this.call("GET", "/api/ops/jobs?limit=100")).items;
  }

  transactions() {
    return this.call("GET", "/api/payments/transactions");
  }

  transaction(transactionId) {
    return this.call("GET", `/api/payments/transactions/${transactionId}`);
  }

  /** Gives up a purchase that is under way; refused where it was paid meanwhile. */
  giveUpTransaction(transactionId) {
    return this.call("DELETE", `/api/payments/transactions/${transactionId}`);
  }

  /** A new video of one's own lecture, and where its bytes go: `{video, upload: {method, url, expires_at}}`. */
  beginUpload(wish) {
    return this.call("POST", "/api/videos/upload", wish);
  }

  deleteVideo(videoId) {
    return this.call("DELETE", `/api/videos/${videoId}`);
  }

  video(videoId) {
    return this.call("GET", `/api/videos/${videoId}`);
  }

  /** @param {string} videoId @param {string|null} [first]  the first UTC day; all time without */
  analytics(videoId, first) {
    return this.call("GET", `/api/videos/${videoId}/analytics${first ? `?from=${first}` : ""}`);
  }

  /** Who watches now. */
  live(videoId) {
    return this.call("GET", `/api/videos/${videoId}/live`);
  }

  createSession(videoId, circumstances) {
    return this.call("POST", `/api/videos/${videoId}/sessions`, circumstances);
  }

  session(sessionId) {
    return this.call("GET", `/api/videos/sessions/${sessionId}`);
  }

  /**
   * One call with the account's token.
   *
   * @throws {Problem}
   */
  call(method, path, body, more) {
    return this.authorised((token) => this.#send(method, path, { body, token, more }));
  }

  /**
   * Asks with the account's token, and once more with a new one when the server no longer takes it.
   *
   * @param {(token: string|null) => Promise<any>} ask
   * @throws {Problem}
   */
  async authorised(ask) {
    const { user, accessToken: token } = this;
    try {
      return await ask(token);
    } catch (error) {
      if (error.status !== 401 || !token) throw error;
      await this.refresh(token);
      if (this.user?.id !== user.id) throw error; // what one asked for is not done as another
      return ask(this.accessToken);
    }
  }

  /**
   * A new pair of tokens for a spent one. One tab asks, the others take what it got: a refresh token is good once.
   *
   * @param {string|null} spent  the access token that was refused
   */
  refresh(spent = this.accessToken) {
    this.#refreshing ??= this.#exclusively(() => this.#renew(spent)).finally(() => (this.#refreshing = null));
    return this.#refreshing;
  }

  async #exclusively(work) {
    let begun = false;
    const begin = () => {
      begun = true;
      return work();
    };
    try {
      return await navigator.locks.request("lectern.refresh", begin);
    } catch (error) {
      if (begun) throw error;
      return work(); // there are no locks, or they are forbidden as all is that tabs have in common
    }
  }

  async #renew(spent) {
    const account = this.#account;
    if (!account) throw new Problem(401, { code: "signed_out", detail: "Sign in to go on." });
    if (account.access_token !== spent) return;
    try {
      const fresh = await this.#send("POST", "/api/auth/refresh", { body: { refresh_token: account.refresh_token } });
      this.#keep({
        user: fresh.user ?? account.user,
        access_token: fresh.access_token,
        refresh_token: fresh.refresh_token ?? account.refresh_token,
      });
    } catch (error) {
      if (error.status !== 401) throw error;
      if (error.code === "refresh_spent" && (await this.#replaced(account))) return;
      if (this.#account?.refresh_token === account.refresh_token) {
        this.#keep(null);
        this.dispatchEvent(new Event("account"));
      }
      throw error;
    }
  }

  /** Where pages cannot lock, another tab may have been quicker, and its answer is on its way. */
  async #replaced({ refresh_token }) {
    const until = performance.now() + REPLACED_MS;
    while (this.#account?.refresh_token === refresh_token && performance.now() < until) await pause(100);
    return this.#account !== null && this.#account.refresh_token !== refresh_token;
  }

  async #send(method, path, { body, token, more } = {}) {
    const headers = { Accept: "application/json", ...more };
    if (body !== undefined) headers["Content-Type"] = "application/json";
    if (token) headers.Authorization = `Bearer ${token}`;
    let response;
    let text;
    const { signal, heard, over } = silence();
    try {
      // Going back in the history would else show where one was before.
      response = await fetch(path, { method, headers, body: body && JSON.stringify(body), cache: "no-store", signal });
      text = await textOf(response, heard);
    } catch {
      throw new Problem(0);
    } finally {
      over();
    }
    const date = Date.parse(response.headers.get("Date") ?? "");
    if (date) this.#told = { date, at: performance.now() };
    const answer = parse(text);
    if (!response.ok) throw new Problem(response.status, answer ?? {}, Number(response.headers.get("Retry-After")) || null);
    if (answer === undefined) throw new Problem(0); // a page of the network between us, as where one has to sign in to it
    return answer;
  }
}

/** A signal that ends what is silent for too long: `heard` is called whenever something comes, `over` at the end. */
function silence() {
  const controller = new AbortController();
  let timer = 0;
  const over = () => clearTimeout(timer);
  const heard = () => {
    over();
    timer = setTimeout(() => controller.abort(), SILENCE_MS);
  };
  heard();
  return { signal: controller.signal, heard, over };
}

/** @param {Response} response @param {() => void} heard  called with every piece of it */
async function textOf(response, heard) {
  const decoder = new TextDecoder();
  let text = "";
  for (const reader = response.body?.getReader(); reader; ) {
    const { done, value } = await reader.read();
    heard();
    if (done) break;
    text += decoder.decode(value, { stream: true });
  }
  return text + decoder.decode();
}

function pause(ms) {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

/** @returns {any} null = there is nothing, undefined = it is something else */
function parse(text) {
  if (!text) return null;
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
