/**
 * The forum beside a lecture: questions about the course, many of them pinned to a second, answered live.
 *
 * Two views in one panel, the list and a topic. Whatever the events' socket says is only a reason to ask again.
 */
import { explain, Problem } from "./api.js";
import { disabledDuring, h, keepFocus, oneAtATime, setText } from "./dom.js";
import { dropDrafts, keepDraft } from "./drafts.js";
import { clock, plural } from "./format.js";
import { newId } from "./ids.js";
import { showMarkdown } from "./markdown.js";

const SOON_MS = 150; // what comes together is asked for together
const SEARCH_MS = 300;
const TOPICS = 20;
const TOPICS_MOST = 100;

export class ForumPanel {
  /**
   * @param {object} options
   * @param {import("./api.js").Api} options.api
   * @param {import("./events.js").Events} options.events
   * @param {object} options.lecture
   * @param {boolean} options.owner  whether one runs the course
   * @param {() => number} options.position  the second being shown
   * @param {(seconds: number) => void} options.seek
   * @param {() => number} options.duration  of the lecture, in seconds
   */
  constructor({ api, events, lecture, owner, position, seek, duration }) {
    this.#api = api;
    this.#me = api.user?.id;
    this.#events = events;
    this.#lecture = lecture;
    this.#owner = owner;
    this.#position = position;
    this.#seek = seek;
    this.#duration = duration;
    this.element = this.#build();
    const on = (name, listener) => events.addEventListener(name, listener, { signal: this.#off.signal });
    on("post", ({ detail }) => this.#changed(detail));
    on("topic", ({ detail }) => this.#changed(detail));
    on("open", () => this.#changed(null));
    on("revoked", ({ detail }) => detail.course_id === lecture.course_id && (this.element.hidden = true));
    events.watch({ course_id: lecture.course_id });
  }

  /** Marks of the lecture's topics, for below its picture. */
  marks = h("div", { class: "marks", role: "toolbar", "aria-label": "Questions in this lecture", hidden: true });

  #api;
  #me; // whoever signs in meanwhile
  #events;
  #lecture;
  #owner;
  #position;
  #seek;
  #duration;
  #off = new AbortController();
  #timers = {};
  #topicId = null;
  #asked = 0;
  #faults = 0; // that were told: the same words may be news
  #shown = new Map(); // by a post's id, what is shown of it
  #badge = h("span", { class: "badge", hidden: true });
  #search = h("input", { type: "search", placeholder: "Search", "aria-label": "Search the questions", maxlength: 200 });
  #scope = h(
    "select",
    { "aria-label": "Which questions" },
    h("option", { value: "" }, "Whole course"),
    h("option", { value: "here" }, "This lecture"),
    h("option", { value: "unsolved" }, "Without a solution"),
    h("option", { value: "unread" }, "Unread"),
  );
  #list = h("ol", { class: "topics" });
  #more = h("button", { type: "button", class: "plain", hidden: true }, "More");
  #listView = h("div");
  #topicView = h("div", { class: "topic", hidden: true });
  #told = h("p", { class: "quiet", role: "status" });

  close() {
    this.#off.abort();
    Object.values(this.#timers).forEach(clearTimeout);
  }

  /** Asks for everything that is shown. */
  async refresh() {
    await Promise.all([this.#refreshList(this.#list.children.length), this.#refreshMarks(), this.#refreshBadge()]);
    if (this.#topicId) await this.#refreshTopic();
  }

  #path(query) {
    return `/api/forums/courses/${this.#lecture.course_id}/topics?${new URLSearchParams(query)}`;
  }

  #changed(detail) {
    const deleted = detail?.type === "topic" && detail.change === "deleted" && detail.topic_id === this.#topicId;
    if (deleted) this.#showList("This question was deleted.");
    this.#soon("refresh", SOON_MS, () => this.#attempt(() => this.refresh()));
  }

  #soon(name, ms, work) {
    clearTimeout(this.#timers[name]);
    this.#timers[name] = setTimeout(() => this.#off.signal.aborted || work(), ms);
  }

  /** What somebody wants: what was said before is over when it is done; before, nothing moves under a second click. */
  async #try(work) {
    const [said, faults] = [this.#told.textContent, this.#faults];
    await this.#attempt(work);
    if (this.#faults === faults && this.#told.textContent === said) setText(this.#told, "");
  }

  async #attempt(work) {
    try {
      await work();
    } catch (error) {
      this.#faults += 1;
      setText(this.#told, explain(error));
    }
  }

  // The list

  #build() {
    this.#search.addEventListener("input", () => this.#soon("search", SEARCH_MS, () => this.#try(() => this.#refreshList())));
    this.#scope.addEventListener("change", () => this.#try(() => this.#refreshList()));
    this.#listView.append(
      h("div", { class: "forum-tools" }, this.#search, this.#scope),
      this.#askForm(),
      this.#list,
      h("p", { class: "actions" }, this.#more),
    );
    return h(
      "section",
      { class: "card forum", "aria-labelledby": "forum-title" },
      h("h2", { class: "section", id: "forum-title" }, "Questions ", this.#badge),
      this.#told,
      this.#listView,
      this.#topicView,
    );
  }

  /** @param {number} [shown]  about so many, as far as one page of the server's holds them */
  async #refreshList(shown = TOPICS) {
    const query = { limit: Math.min(Math.ceil(shown / TOPICS) * TOPICS, TOPICS_MOST) || TOPICS };
    if (this.#search.value.trim()) query.q = this.#search.value.trim();
    if (this.#scope.value === "here") query.lecture_id = this.#lecture.id;
    if (this.#scope.value === "unsolved") query.solved = "false";
    if (this.#scope.value === "unread") query.unread = "true";
    const mine = ++this.#asked;
    const answer = await this.#api.call("GET", this.#path(query));
    if (mine !== this.#asked) return;
    const entries = answer.items.map((topic) => this.#entry(topic));
    if (entries.length === 0) entries.push(h("li", { class: "quiet" }, "Nothing here yet."));
    keepFocus(this.#list, () => this.#list.replaceChildren(...entries));
    this.#offerMore(answer.next);
  }

  #offerMore(next) {
    this.#more.hidden = !next;
    const mine = this.#asked;
    this.#more.onclick = oneAtATime(() =>
      this.#try(async () => {
        const answer = await this.#api.more(next);
        if (mine !== this.#asked) return; // another list is shown by now
        this.#list.append(...answer.items.map((topic) => this.#entry(topic)));
        this.#offerMore(answer.next);
      }),
    );
  }

  #entry(topic) {
    const open = () => this.#try(() => this.#open(topic.id));
    return h(
      "li",
      { id: `topic-${topic.id}`, dataset: { topic: topic.id, unread: String(topic.unread > 0) } },
      h("button", { type: "button", class: "link", onclick: open }, topic.title),
      h(
        "p",
        { class: "meta" },
        [
          topic.is_pinned && "Pinned",
          topic.is_locked && "Locked",
          topic.solved_post_id && "Solved",
          h("bdi", null, topic.username ?? "Somebody who left"),
          plural(topic.post_count, "post"),
          topic.unread > 0 && `${topic.unread} new`,
        ]
          .filter(Boolean)
          .flatMap((fact, at) => (at > 0 ? [" · ", fact] : [fact])),
        this.#here(topic) && [" · ", this.#moment(topic)],
      ),
    );
  }

  #here(topic) {
    return topic.lecture_id === this.#lecture.id && topic.position !== null;
  }

  #moment(topic) {
    const seek = () => this.#seek(topic.position);
    return h("button", { type: "button", class: "link", onclick: seek }, `at ${clock(topic.position)}`);
  }

  #askForm() {
    const title = h("input", { required: true, maxlength: 200, "aria-label": "Your question in a line" });
    const content = h("textarea", { required: true, maxlength: 20_000, rows: 4, "aria-label": "Your question" });
    const pinned = h("input", { type: "checkbox", checked: true });
    const pinnedText = h("span", null, "At this second");
    const names = [this.#me, "question", this.#lecture.course_id];
    keepDraft(title, ...names, "title");
    keepDraft(content, ...names, "content");
    const post = this.#poster("/api/forums/topics");
    const ask = (event) => {
      event.preventDefault();
      const body = { course_id: this.#lecture.course_id, title: title.value, content: content.value };
      body.lecture_id = this.#lecture.id;
      if (pinned.checked) body.position = Number(form.dataset.position ?? this.#position().toFixed(3));
      post(form, body, async (topic) => {
        // What was written meanwhile is another one.
        if (title.value === body.title && content.value === body.content) {
          dropDrafts(...names);
          form.reset();
          delete form.dataset.position;
          form.closest("details").open = false;
        }
        this.#showTopic(topic);
        await Promise.all([this.#refreshList(), this.#refreshMarks()]);
      });
    };
    const form = h(
      "form",
      { class: "ask", onsubmit: ask },
      title,
      content,
      h("label", { class: "pin" }, pinned, pinnedText),
      h("p", { class: "actions" }, h("button", { class: "primary" }, "Ask")),
    );
    const opened = ({ target }) => {
      if (!target.open) return;
      // The second of which one asks is the one at which one begins to write.
      form.dataset.position = this.#position().toFixed(3);
      setText(pinnedText, `At ${clock(this.#position())}`);
      title.focus();
    };
    return h("details", { ontoggle: opened }, h("summary", null, "Ask a question"), form);
  }

  /** Posts what a form holds, once: however often it is sent, and although an answer is lost on its way. */
  #poster(path) {
    const draft = { text: null, key: null };
    const send = async (body, done) => {
      const text = JSON.stringify(body);
      if (draft.text !== text) Object.assign(draft, { text, key: newId() });
      try {
        const row = await this.#api.call("POST", path, body, { "Idempotency-Key": draft.key });
        draft.text = null;
        await done(row);
      } catch (error) {
        if (isRefusal(error)) draft.text = null;
        throw error;
      }
    };
    return (form, body, done) => {
      const button = form.querySelector(".primary");
      if (!button.disabled) this.#try(() => disabledDuring(button, () => send(body, done)));
    };
  }

  async #refreshMarks() {
    const answer = await this.#api.call("GET", this.#path({ lecture_id: this.#lecture.id, limit: 100 }));
    const duration = this.#duration();
    const placed = answer.items.filter((topic) => this.#here(topic) && duration > 0);
    placed.sort((one, other) => one.position - other.position);
    this.marks.hidden = placed.length === 0;
    keepFocus(this.marks, () => this.marks.replaceChildren(...placed.map((topic, at) => this.#mark(topic, at, duration))));
  }

  /** Of all of them one is on the way of the Tab key, and arrows lead on from there: there may be a hundred. */
  #mark(topic, at, duration) {
    const left = `left: ${Math.min(100, (100 * topic.position) / duration).toFixed(2)}%`;
    const name = `${topic.title}, at ${clock(topic.position)}`;
    const onclick = () => {
      this.#seek(topic.position);
      this.#try(() => this.#open(topic.id));
    };
    const onfocus = () => [...this.marks.children].forEach((mark) => (mark.tabIndex = mark === button ? 0 : -1));
    const onkeydown = ({ key }) => {
      if (key === "ArrowRight") button.nextElementSibling?.focus();
      if (key === "ArrowLeft") button.previousElementSibling?.focus();
    };
    const tabindex = at === 0 ? 0 : -1;
    const named = { id: `mark-${topic.id}`, title: name, "aria-label": name };
    const button = h("button", { type: "button", style: left, tabindex, ...named, onclick, onfocus, onkeydown });
    return button;
  }

  async #refreshBadge() {
    const { items, next } = await this.#api.call("GET", this.#path({ unread: "true", limit: 50 }));
    const others = items.filter(({ id }) => id !== this.#topicId).length;
    this.#badge.hidden = others === 0;
    setText(this.#badge, next ? `${others}+` : String(others));
    this.#badge.title = `${plural(others, "question")} with something new`;
  }

  // A topic

  async #open(topicId) {
    this.#showTopic(await this.#api.call("GET", `/api/forums/topics/${topicId}?limit=100`));
    await Promise.all([this.#refreshList(this.#list.children.length), this.#refreshBadge()]);
  }

  #showList(words = "") {
    const entry = document.getElementById(`topic-${this.#topicId}`);
    const focused = this.#topicView.contains(document.activeElement);
    this.#topicId = null;
    this.#topicView.hidden = true;
    this.#listView.hidden = false;
    setText(this.#told, words);
    if (focused) (entry?.querySelector("button") ?? this.#search).focus({ preventScroll: true });
  }

  #showTopic(topic) {
    this.#topicId = topic.id;
    this.#shown.clear();
    this.#listView.hidden = true;
    this.#topicView.hidden = false;
    setText(this.#told, "");
    const back = () => this.#showList();
    const head = h("h3", { tabindex: "-1" });
    const meta = h("p", { class: "meta" });
    const tools = h("p", { class: "actions" });
    const posts = h("ol", { class: "posts", "aria-live": "polite" });
    const reply = this.#replyForm(topic.id);
    this.#topicView.replaceChildren(
      h("button", { type: "button", class: "link", onclick: back }, "← All questions"),
      head,
      meta,
      tools,
      posts,
      reply,
    );
    this.#parts = { head, meta, tools, posts, reply };
    this.#try(() => this.#fill(topic));
    head.focus({ preventScroll: true });
  }

  #parts = null;

  async #refreshTopic() {
    const wanted = this.#topicId;
    const topic = await this.#api.call("GET", `/api/forums/topics/${wanted}?limit=100`);
    if (this.#topicId === wanted) await this.#fill(topic);
  }

  async #fill(topic) {
    const parts = this.#parts;
    const { head, meta, tools, reply } = parts;
    setText(head, topic.title);
    const states = [topic.is_pinned && "Pinned", topic.is_locked && "Locked", topic.solved_post_id && "Solved"];
    const moment = this.#here(topic) ? this.#moment(topic) : "";
    keepFocus(meta, () => meta.replaceChildren(states.filter(Boolean).map((state) => `${state} · `).join(""), moment), head);
    keepFocus(tools, () => tools.replaceChildren(...this.#topicTools(topic)), head);
    reply.hidden = topic.is_locked && !this.#owner;
    for (const post of topic.posts.items) this.#put(post, topic);
    let next = topic.posts.next;
    while (next) {
      const page = await this.#api.more(next);
      if (this.#parts !== parts) return; // another topic is shown by now
      for (const post of page.posts.items) this.#put(post, page);
      next = page.posts.next;
    }
  }

  #topicTools(topic) {
    const path = `/api/forums/topics/${topic.id}`;
    const change = (body) => () =>
      this.#try(async () => {
        await this.#api.call("PUT", path, body);
        await this.#refreshTopic();
      });
    const remove = () =>
      this.#try(async () => {
        if (!confirm(`Delete “${topic.title}” with all its answers? They cannot be brought back.`)) return;
        await this.#api.call("DELETE", path);
        this.#showList("The question is gone.");
        await this.refresh();
      });
    const button = (label, work) => h("button", { type: "button", class: "plain", onclick: oneAtATime(work) }, label);
    const mine = topic.creator_id === this.#me;
    return [
      this.#owner && button(topic.is_pinned ? "Unpin" : "Pin", change({ is_pinned: !topic.is_pinned })),
      this.#owner && button(topic.is_locked ? "Unlock" : "Lock", change({ is_locked: !topic.is_locked })),
      (this.#owner || (mine && topic.post_count <= 1)) && button("Delete the question", remove),
    ].filter(Boolean);
  }

  /** Shows a post, or what became of it; one that is being edited is left alone. */
  #put(post, topic) {
    const state = JSON.stringify([post.content, post.is_solution, post.deleted_at, post.username, topic.creator_id]);
    const known = this.#shown.get(post.id);
    if (known?.state === state || known?.element.querySelector("form")) return;
    const element = this.#post(post, topic);
    const { posts, head } = this.#parts;
    if (known) keepFocus(posts, () => known.element.replaceWith(element), head);
    else posts.append(element);
    this.#shown.set(post.id, { state, element });
  }

  #post(post, topic) {
    const text = h("div", { class: "text" });
    if (post.deleted_at) text.append(h("em", { class: "quiet" }, "This post was deleted."));
    else showMarkdown(text, post.content);
    const who = post.username ?? "Somebody who left";
    const when = new Date(post.created_at).toLocaleString([], { dateStyle: "medium", timeStyle: "short" });
    const notes = [post.edited_at && " · edited", post.is_solution && " · solution"];
    const element = h(
      "li",
      { id: `post-${post.id}`, dataset: { post: post.id, solution: String(post.is_solution) } },
      h("p", { class: "meta" }, h("strong", null, who), post.by_course_owner && " (instructor)", " · ", h("time", null, when), notes),
      text,
    );
    if (!post.deleted_at) element.append(h("p", { class: "actions" }, ...this.#postTools(post, topic, element)));
    return element;
  }

  #postTools(post, topic, element) {
    const path = `/api/forums/posts/${post.id}`;
    const mine = post.user_id === this.#me;
    const judge = this.#owner || topic.creator_id === this.#me;
    const after = (work) => () =>
      this.#try(async () => {
        await work();
        await this.#refreshTopic();
      });
    const solve = after(() => this.#api.call("PUT", `${path}/solution`, { is_solution: !post.is_solution }));
    const removed = after(() => this.#api.call("DELETE", path));
    const remove = async () => confirm("Delete this post? It cannot be brought back.") && removed();
    const edit = () => {
      element.querySelector(".text")?.replaceWith(this.#editForm(post, topic));
      element.querySelector("textarea")?.focus();
    };
    const button = (label, work) => h("button", { type: "button", class: "link", onclick: oneAtATime(work) }, label);
    return [
      judge && button(post.is_solution ? "Not the solution" : "This is the solution", solve),
      mine && button("Edit", edit),
      (mine || this.#owner) && button("Delete", remove),
    ].filter(Boolean);
  }

  #editForm(post, topic) {
    const content = h("textarea", { required: true, maxlength: 20_000, rows: 5, "aria-label": "Your post" });
    content.value = post.content;
    const names = [this.#me, "edit", post.id];
    keepDraft(content, ...names);
    const show = (row) => {
      dropDrafts(...names);
      const element = this.#post(row, topic);
      const put = () => this.#shown.get(post.id).element.replaceWith(element);
      keepFocus(this.#parts.posts, put);
      this.#shown.set(post.id, { state: null, element });
    };
    const save = (event) => {
      event.preventDefault();
      this.#try(async () =>
        show(await this.#api.call("PUT", `/api/forums/posts/${post.id}`, { content: content.value })),
      );
    };
    return h(
      "form",
      { class: "ask", onsubmit: save },
      content,
      h(
        "p",
        { class: "actions" },
        h("button", { class: "primary" }, "Save"),
        h("button", { type: "button", class: "plain", onclick: () => show(post) }, "Leave it"),
      ),
    );
  }

  #replyForm(topicId) {
    const content = h("textarea", { required: true, maxlength: 20_000, rows: 3, "aria-label": "Your answer" });
    const names = [this.#me, "answer", topicId];
    keepDraft(content, ...names);
    const post = this.#poster(`/api/forums/topics/${topicId}/posts`);
    const send = (event) => {
      event.preventDefault();
      const sent = content.value;
      post(form, { content: sent }, async () => {
        // What was written meanwhile is another one.
        if (content.value === sent) {
          content.value = "";
          dropDrafts(...names);
        }
        await this.#refreshTopic();
      });
    };
    const button = h("button", { class: "primary" }, "Answer");
    const form = h("form", { class: "ask", onsubmit: send }, content, h("p", { class: "actions" }, button));
    return form;
  }
}

/** What was refused is over: the next try is another one. */
function isRefusal(error) {
  return error instanceof Problem && error.status >= 400 && error.status < 500 && error.code !== "idempotency_key_in_use";
}
