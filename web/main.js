/**
 * The page's frame: who is signed in, and which of the pages the address names.
 *
 *   #/?q=<words>            courses, all or those with these words
 *   #/courses/<id>          one course
 *   #/lectures/<id>         the classroom
 *   #/videos/<id>           a video's audience, for the course's owner
 *   #/signin?next=<hash>    signing in, then on to `next`
 *   #/account               one's own account
 *   #/plans                 plans, one's subscription, cards and payments
 *   #/ops                   what waits for an operator; /ops is the same
 *   #/forgot                a password that was forgotten
 *   #/reset/<token>         and #/verify/<token>, #/unsubscribe/<token>: where links in mails lead
 */
import { accountPage, forgotPage, resetPage, unsubscribePage, verifyPage } from "./account.js";
import { Api, explain, isAway } from "./api.js";
import { audiencePage } from "./audience.js";
import { cataloguePage, coursePage } from "./catalogue.js";
import { Classroom } from "./classroom.js";
import { entitle, h } from "./dom.js";
import { newId } from "./ids.js";
import { tab } from "./kept.js";
import { opsPage } from "./ops.js";
import { finishOwed } from "./owed.js";
import { forgetAll } from "./place.js";
import { plansPage } from "./plans.js";
import { signInPage } from "./signin.js";

const RETRY_MS = 5_000;
const HOME = location.pathname === "/ops" ? "/ops" : "/";
const api = new Api();
const page = document.getElementById("page");
const account = document.getElementById("account");

// Of each page in this tab's history, by its entry's name: how far it was scrolled, and how much of its list was shown.
// Browsers look only at what is there when one comes back, and then a page is still empty.
const SEEN_KEY = "lectern.seen";
history.scrollRestoration = "manual";
/** @type {Record<string, {scroll: number, shown: number}>} */
const seen = JSON.parse(tab.get(SEEN_KEY) ?? "{}");
let here = null; // of the page that is shown

/** @type {Classroom|null} */
let classroom = null;
let visit = 0;

function navigate(hash) {
  if (location.hash === hash) show();
  else location.hash = hash;
}

/** In place of the page that is shown: who goes back from there does not want to sign in once more. */
function moveOn(hash) {
  if (location.hash === hash) show();
  else location.replace(hash.replace(/^#?/, "#")); // what an address names is a page of ours, whatever it says
}

function noteScroll() {
  if (here) here.scroll = window.scrollY;
}

async function show() {
  const mine = ++visit;
  classroom?.close();
  classroom = null;
  noteScroll(); // of what is still shown
  here = null;
  if (!history.state?.entry) history.replaceState({ entry: newId() }, "");
  const left = (seen[history.state.entry] ??= { scroll: 0, shown: 0 });
  const [path, query = ""] = (location.hash.slice(1) || HOME).split("?");
  const [, kind, id] = path.split("/");
  page.setAttribute("aria-busy", "true");
  const element = await come(() => build(kind, id, new URLSearchParams(query), left), mine);
  if (!element) return;
  put(element, mine > 1);
  window.scrollTo(0, left.scroll);
  here = left;
  await classroom?.open();
}

/**
 * What is made, once network and server are there: until then it is said that they are not. null where it is refused, which
 * is shown instead, or not wanted any more.
 */
async function come(make, mine) {
  for (let told = null; mine === visit; await new Promise((resolve) => setTimeout(resolve, RETRY_MS))) {
    try {
      const element = await make();
      return mine === visit ? element : null;
    } catch (error) {
      if (mine !== visit) return null;
      // The same once more is not read out anew, and takes no button from under anybody's fingers.
      if (explain(error) !== told) put(error.status === 401 ? signInPage({ api, next: location.hash, navigate }) : failed(error), mine > 1);
      if (!isAway(error)) return null;
      told = explain(error);
    }
  }
  return null;
}

/** @param {HTMLElement} element  what is shown now @param {boolean} read  by who came to it from another */
function put(element, read) {
  page.removeAttribute("aria-busy");
  page.replaceChildren(element);
  window.scrollTo(0, 0);
  const heading = page.querySelector("h1");
  if (read) heading.focus({ preventScroll: true });
  // A classroom does not know its lecture yet, and says itself what it is.
  if (classroom) document.title = "Lectern";
  else entitle(heading.textContent);
}

async function build(kind, id, query, left) {
  switch (kind) {
    case "":
    case undefined:
      return cataloguePage({ api, words: (query.get("q") ?? "").trim(), left });
    case "courses":
      return coursePage({ api, courseId: id, navigate });
    case "lectures":
      classroom = new Classroom({ api, lectureId: id, navigate });
      return classroom.element;
    case "videos":
      return audiencePage({ api, videoId: id });
    case "signin":
      return signInPage({ api, next: query.get("next") ?? "#/", navigate: moveOn });
    case "account":
      if (!api.user) return signInPage({ api, next: "#/account", navigate });
      return accountPage({ api });
    case "plans":
      return plansPage({ api });
    case "ops":
      if (!api.user) return signInPage({ api, next: "#/ops", navigate });
      return opsPage({ api });
    case "forgot":
      return forgotPage({ api });
    case "reset":
      return resetPage({ api, token: id });
    case "verify":
      return verifyPage({ api, token: id });
    case "unsubscribe":
      return unsubscribePage({ api, token: id });
    default:
      return failed(null);
  }
}

function failed(error) {
  return h(
    "div",
    { class: "page narrow" },
    h(
      "div",
      { class: "entry card" },
      h("h1", { tabindex: "-1" }, error ? "That did not work" : "Nothing here"),
      h("p", null, error ? explain(error) : "This address leads nowhere."),
      h(
        "p",
        { class: "actions" },
        error && h("button", { class: "primary", type: "button", onclick: show }, "Try again"),
        h("a", { class: "plain", href: "#/" }, "All courses"),
      ),
    ),
  );
}

/** What plays ends, and nothing of who was signed in stays here. */
function forget() {
  classroom?.close();
  classroom = null;
  forgetAll();
}

function showAccount() {
  const { user } = api;
  if (!user) {
    const there = location.hash.startsWith("#/signin");
    const next = encodeURIComponent(location.hash || "#/");
    account.replaceChildren(there ? "" : h("a", { class: "plain", href: `#/signin?next=${next}` }, "Sign in"));
    return;
  }
  const leave = () => {
    forget();
    // Home at once: by the time the server has answered, one may have gone elsewhere.
    api.signOut();
    navigate("#/");
  };
  account.replaceChildren(
    h("a", { class: "plain", href: "#/plans" }, "Plans"),
    ...(user.role === "admin" ? [h("a", { class: "plain", href: "#/ops" }, "Operations")] : []),
    h("a", { class: "who", href: "#/account", title: user.email ?? "" }, user.username),
    h("button", { class: "plain", type: "button", onclick: leave }, "Sign out"),
  );
}

/** A style that did not come is asked for again: all else of the page is here. @param {HTMLLinkElement} style */
function restyle(style) {
  const again = style.cloneNode();
  again.addEventListener("error", () => setTimeout(restyle, RETRY_MS, again));
  style.replaceWith(again);
}

// For end-to-end tests and the curious: to look at, not to steer with.
Object.defineProperty(window, "lectern", {
  value: Object.freeze({
    get session() {
      return classroom?.session ?? null;
    },
    get player() {
      return classroom?.player ?? null;
    },
    state: () => classroom?.state() ?? null,
  }),
});

// The address belongs to the routes, so the skip link may not change it.
document.getElementById("skip").addEventListener("click", (event) => {
  event.preventDefault();
  page.focus();
});
let shownTo = api.user?.id;
api.addEventListener("account", () => {
  showAccount();
  const before = shownTo;
  shownTo = api.user?.id ?? before;
  // Somebody else signed in, perhaps in another tab: what is shown here is not theirs.
  if (before && shownTo !== before) show();
});
// In another tab: it may be somebody else's turn at this machine.
api.addEventListener("left", () => {
  forget();
  show();
});
// Who comes back finds the page as it would be now: somebody may have signed out meanwhile, and what a page waited for when
// it was left, as a bank's answer, is over.
window.addEventListener("pageshow", (event) => event.persisted && location.reload());
window.addEventListener("pagehide", () => {
  noteScroll();
  tab.set(SEEN_KEY, JSON.stringify(seen));
});
window.addEventListener("hashchange", () => {
  showAccount();
  show();
});
if (!getComputedStyle(page).getPropertyValue("--ink")) restyle(document.querySelector("link[rel=stylesheet]"));
showAccount();
finishOwed(api);
show();
