/**
 * The list of courses, and one course with its lectures.
 */
import { explain } from "./api.js";
import { checkout } from "./checkout.js";
import { disabledDuring, h, icon, setText } from "./dom.js";
import { clock, plural, price, span } from "./format.js";
import { tab } from "./kept.js";

const CHECK = "M5 12.5l4.5 4.5L19 7.5";
const HUES = [176, 200, 218, 250, 286, 330, 8];
const MAGNIFIER = "M10.5 17a6.5 6.5 0 1 0 0-13 6.5 6.5 0 0 0 0 13zM15.5 15.5 20 20";
const PLAY = "M8 5.5v13l10.5-6.5z";

// As many characters as the server takes, and how long typing rests before it is asked.
const WORDS_MAX = 200;
const TYPING_MS = 250;

// What a purchase stands as, by its transaction's status; any other is over, and the next one is another.
const STANDINGS = { pending: "open", requires_action: "open", succeeded: "paid", partially_refunded: "paid" };

/**
 * @param {object} options
 * @param {import("./api.js").Api} options.api
 * @param {string} options.words  what to look for, from the address
 * @param {{shown: number}} options.left  how many were shown when this page was left, and from now on
 */
export async function cataloguePage({ api, words, left }) {
  const [first, continuations] = await Promise.all([found(api, words, left.shown), begun(api)]);
  let newest = 0;
  const list = h("ul", { class: "courses", "aria-label": "Courses" });
  const note = h("p", { class: "quiet", role: "status" });
  const more = h("button", { class: "plain", type: "button", hidden: true }, "Show more");
  const add = (page, sought) => {
    list.append(...page.items.map(courseCard));
    left.shown = list.children.length;
    more.hidden = page.next === null;
    const mine = newest;
    more.onclick = () =>
      disabledDuring(more, async () => {
        const rest = await api.more(page.next);
        if (mine === newest) add(rest, sought); // else others are looked for by now
      }).catch(fail);
    if (list.children.length > 0) setText(note, "");
    else setText(note, sought ? `Nothing is found for “${sought}”.` : "Nothing has been published yet.");
  };
  const fail = (error) => setText(note, explain(error));
  // Who looks for something does not want to go on: it makes way.
  const resume =
    continuations.length > 0 &&
    h(
      "section",
      { class: "resume", hidden: Boolean(words) },
      h("h2", { class: "section" }, "Continue where you left off"),
      h("ul", { class: "begun" }, ...continuations.map(continuation)),
      h("h2", { class: "section" }, "All courses"),
    );
  const search = async (sought) => {
    const mine = ++newest;
    // The address follows, without a page of its own for every letter.
    history.replaceState(history.state, "", sought ? `#/?q=${encodeURIComponent(sought)}` : "#/");
    try {
      const page = await api.courses(sought);
      if (mine !== newest) return true;
      if (resume) resume.hidden = Boolean(sought);
      list.replaceChildren();
      add(page, sought);
    } catch (error) {
      if (mine === newest) fail(error);
      return false;
    }
    return true;
  };
  add(first, words);
  return h(
    "div",
    { class: "page" },
    h(
      "header",
      { class: "masthead catalogue-head" },
      h("div", null, h("h1", { tabindex: "-1" }, "Courses"), h("p", null, "Lectures that keep your place.")),
      searchBox(words, search),
    ),
    resume,
    list,
    note,
    h("p", { class: "more" }, more),
  );
}

/** The first page of them, or as many as were shown before. */
async function found(api, words, count) {
  const page = await api.courses(words);
  while (page.items.length < count && page.next) {
    const more = await api.more(page.next).catch(() => null);
    if (!more) break; // it can be asked for once more
    page.items.push(...more.items);
    page.next = more.next;
  }
  return page;
}

/** Only a convenience: the catalogue is there without it. */
const begun = (api) => (api.user ? api.continuations().catch(() => []) : []);

/** @param {string} words @param {(words: string) => Promise<boolean>} onsearch  whether it could be looked for */
function searchBox(words, onsearch) {
  const field = h("input", {
    type: "search",
    name: "q",
    value: words,
    maxlength: WORDS_MAX,
    placeholder: "Search courses",
    "aria-label": "Search courses",
    autocomplete: "off",
  });
  let typing = 0;
  let sought = words;
  const look = async () => {
    clearTimeout(typing);
    if (!field.isConnected || field.value.trim() === sought) return;
    sought = field.value.trim();
    if (!(await onsearch(sought))) sought = null; // the same words may be looked for once more
  };
  field.addEventListener("input", () => {
    clearTimeout(typing);
    typing = setTimeout(look, TYPING_MS);
  });
  const submit = (event) => {
    event.preventDefault();
    look();
  };
  return h("form", { class: "search", role: "search", onsubmit: submit }, icon(MAGNIFIER), field);
}

function continuation({ lecture_id, lecture_title, course_title, position, duration, percent }) {
  const share = duration > 0 ? Math.min(position / duration, 1) : 0;
  const place = duration > 0 ? `${clock(position)} of ${clock(duration)}` : clock(position);
  const row = h(
    "li",
    { class: "card" },
    h("p", { class: "meta" }, h("bdi", null, course_title)),
    h("h3", null, h("a", { href: `#/lectures/${lecture_id}` }, lecture_title)),
    h("p", { class: "meta" }, `${place} · ${Math.round(percent)} % of the course`),
    h("span", { class: "watched", "aria-hidden": "true" }, h("span")),
  );
  row.style.setProperty("--watched", `${Math.round(share * 100)}%`);
  return row;
}

function courseCard(course) {
  return h(
    "li",
    { class: "card course" },
    cover(course),
    h(
      "div",
      { class: "text" },
      h("h2", null, h("a", { href: `#/courses/${course.id}` }, course.title)),
      h("p", { class: "summary" }, course.description),
      h("p", { class: "meta" }, courseMeta(course)),
    ),
  );
}

function courseMeta(course) {
  const parts = [];
  if (Number.isFinite(course.lecture_count)) parts.push(plural(course.lecture_count, "lecture"));
  if (span(course.duration)) parts.push(span(course.duration));
  parts.push(price(course));
  return parts.join(" · ");
}

/** The course's picture, or one drawn from its name. */
function cover(course) {
  const initial = [...course.title.trim()][0]?.toUpperCase() ?? "";
  const drawn = h("div", { class: "cover", "aria-hidden": "true" }, h("span", null, initial));
  const sum = [...course.title].reduce((total, letter) => (total * 31 + letter.codePointAt(0)) % 9973, 7);
  drawn.style.setProperty("--hue", String(HUES[sum % HUES.length]));
  if (course.thumbnail_url) {
    const picture = h("img", { src: course.thumbnail_url, alt: "", loading: "lazy" });
    picture.addEventListener("error", () => picture.remove(), { once: true });
    drawn.append(picture);
  }
  return drawn;
}

/**
 * @param {object} options
 * @param {import("./api.js").Api} options.api
 * @param {string} options.courseId
 * @param {(hash: string) => void} options.navigate
 */
export async function coursePage({ api, courseId, navigate }) {
  const [course, lectures] = await Promise.all([api.course(courseId), api.lectures(courseId)]);
  rememberCourse(lectures, courseId);
  const failure = h("p", { class: "failure", role: "alert", hidden: true });
  const meta = h("p", { class: "meta" }, courseMeta(course));
  const till = h("div");
  const fail = (text) => {
    setText(failure, text);
    failure.hidden = false;
    failure.scrollIntoView({ block: "nearest" }); // a lecture far below may have been pressed
  };
  const reprice = (now) => {
    Object.assign(course, now);
    setText(meta, courseMeta(course));
    till.replaceChildren();
    fail(`The price has changed: it is ${price(course)} now.`);
  };
  const buy = async (target) => {
    try {
      till.replaceChildren(h("div", { class: "card entry" }, await payForm(api, course, () => navigate(target), reprice)));
      till.querySelector("button[type=submit]").scrollIntoView({ block: "nearest" });
    } catch (error) {
      fail(explain(error));
    }
  };
  const begin = async (lecture) => {
    failure.hidden = true;
    const target = `#/lectures/${lecture.id}`;
    if (!api.user) return navigate(`#/signin?next=${encodeURIComponent(target)}`);
    try {
      if (course.is_free) await api.enrol(courseId);
      else if (!lecture.is_preview) await api.lecture(lecture.id);
      return navigate(target);
    } catch (error) {
      if (lecture.is_preview) return navigate(target);
      if (error.code === "not_entitled") return buy(target);
      return fail(explain(error));
    }
  };
  return h(
    "div",
    { class: "page" },
    h("p", { class: "crumbs" }, h("a", { href: "#/" }, "Courses")),
    h(
      "header",
      { class: "masthead course-head" },
      cover(course),
      h(
        "div",
        null,
        h("h1", { tabindex: "-1" }, course.title),
        h("p", null, course.description),
        meta,
        failure,
        startButton(lectures, begin),
      ),
    ),
    till,
    lectures.length > 0 && h("h2", { class: "section" }, "Lectures"),
    lectures.length > 0 && lectureList(lectures, { onpick: begin }),
  );
}

function payForm(api, course, done, reprice) {
  const shown = price(course);
  return checkout({
    api,
    action: `Buy for ${shown}`,
    // One that was begun for another price is another one.
    what: `course.${course.id}.${course.price}.${course.currency}`,
    currency: course.currency,
    amount: Number(course.price),
    pay: async (methodId, key) => {
      // Nobody pays what they were not shown: the page may have been open for long.
      const now = await api.course(course.id);
      if (price(now) !== shown) {
        reprice(now);
        throw new Error("The price has changed.");
      }
      return purchase(api, course.id, methodId, key);
    },
    standing: async (answer) => STANDINGS[(await api.transaction(answer.transaction.id)).status] ?? "over",
    done,
  });
}

/** One that waits for the bank of another card, or whose answer was lost, gives way; the answer says if it was paid. */
async function purchase(api, courseId, methodId, key) {
  try {
    return await api.purchase(courseId, methodId, key);
  } catch (error) {
    if (error.code !== "purchase_pending") throw error;
    await api.giveUpTransaction(error.body.transaction_id).catch(() => {});
    return api.purchase(courseId, methodId, key);
  }
}

function startButton(lectures, begin) {
  if (lectures.length === 0) return h("p", { class: "quiet" }, "No lectures yet.");
  const started = lectures.some(({ progress }) => progress?.watched_duration > 0);
  const next = lectures.find(({ progress }) => !progress?.completed) ?? lectures[0];
  const text = started ? `Continue with “${next.title}”` : "Start learning";
  return h("button", { class: "primary", type: "button", onclick: () => begin(next) }, icon(PLAY), text);
}

/**
 * Lectures in order, each with how much of it was watched.
 *
 * @param {object[]} lectures
 * @param {object} [options]
 * @param {string} [options.currentId]
 * @param {(lecture: object) => void} [options.onpick]  else a link leads there
 */
export function lectureList(lectures, { currentId, onpick } = {}) {
  return h("ol", { class: "lectures" }, ...lectures.map((lecture) => lectureRow(lecture, currentId === lecture.id, onpick)));
}

function lectureRow(lecture, current, onpick) {
  const { progress, duration } = lecture;
  const share = duration > 0 ? Math.min((progress?.watched_duration ?? 0) / duration, 1) : 0;
  const percent = Math.round((progress?.completed ? 1 : share) * 100);
  const pick = (event) => {
    // With a key held, it is for a tab or window of its own.
    if (!onpick || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    onpick(lecture);
  };
  const mark = progress?.completed ? icon(CHECK) : String(lecture.sequence_order ?? "");
  const told = progress?.completed ? "completed" : percent > 0 ? `${percent} % watched` : "";
  const row = h(
    "a",
    { href: `#/lectures/${lecture.id}`, "aria-current": current ? "page" : null, onclick: pick },
    h("span", { class: "mark", dataset: { done: String(Boolean(progress?.completed)) } }, mark),
    h("span", { class: "title" }, lecture.title, told && h("span", { class: "visually-hidden" }, `, ${told}`)),
    h("span", { class: "length" }, lecture.is_preview && h("em", null, "Preview"), duration ? clock(duration) : ""),
    !progress?.completed && h("span", { class: "bar", "aria-hidden": "true" }, h("span")),
  );
  row.style.setProperty("--watched", `${percent}%`);
  return h("li", null, row);
}

// A lecture that one may not watch does not say which course it belongs to; the list it was found in does.
const COURSE_OF = "lectern.course-of";

/** @param {{id: string}[]} lectures @param {string} courseId */
export function rememberCourse(lectures, courseId) {
  const known = { ...courseMap(), ...Object.fromEntries(lectures.map(({ id }) => [id, courseId])) };
  tab.set(COURSE_OF, JSON.stringify(known));
}

/** @param {string} lectureId @returns {string|null} */
export const courseOf = (lectureId) => courseMap()[lectureId] ?? null;

function courseMap() {
  try {
    return JSON.parse(tab.get(COURSE_OF)) ?? {};
  } catch {
    return {};
  }
}
