/**
 * One's own account, and the pages that links in mails lead to.
 */
import { explain } from "./api.js";
import { h } from "./dom.js";
import { entryForm } from "./signin.js";

const NEW_PASSWORD = {
  name: "new_password",
  label: "New password",
  type: "password",
  autocomplete: "new-password",
  minlength: 8,
  maxlength: 256,
  hint: "At least 8 characters.",
};

/** Asks for a mail to set a new password. @param {{api: import("./api.js").Api}} options */
export function forgotPage({ api }) {
  const card = h("div", { class: "entry card" });
  const form = entryForm({
    title: "Forgot your password?",
    action: "Send a link",
    fields: [{ name: "email", label: "E-mail", type: "email", autocomplete: "email" }],
    submit: async ({ email }) => {
      await api.forgotPassword(email);
      say(card, "Look into your mail", `If there is an account with ${email}, a link to set a new password is on its way.`);
    },
    aside: [h("a", { class: "link", href: "#/signin" }, "Back to signing in")],
  });
  card.append(form);
  return framed(card);
}

/** Sets a new password with the token of a mail. @param {{api: import("./api.js").Api, token: string}} options */
export function resetPage({ api, token }) {
  const card = h("div", { class: "entry card" });
  card.append(
    entryForm({
      title: "Set a new password",
      action: "Set password",
      fields: [NEW_PASSWORD],
      submit: async ({ new_password }) => {
        await api.resetPassword(token, new_password);
        say(card, "Your password is set", "You are signed out everywhere. Sign in with the new one.", signInLink());
      },
      aside: [h("a", { class: "link", href: "#/forgot" }, "Ask for another link")],
    }),
  );
  return framed(card);
}

/** Proves an address with the token of a mail. @param {{api: import("./api.js").Api, token: string}} options */
export async function verifyPage({ api, token }) {
  const card = h("div", { class: "entry card" });
  try {
    await api.verifyEmail(token);
    say(card, "Thank you", "Your e-mail address is confirmed.", h("a", { class: "plain", href: "#/" }, "All courses"));
  } catch (error) {
    const account = h("a", { class: "plain", href: "#/account" }, "Ask for another link");
    say(card, "That did not work", explain(error), account);
  }
  return framed(card);
}

/** The account: what it is, another password. @param {{api: import("./api.js").Api}} options */
export async function accountPage({ api }) {
  const user = await api.me();
  const card = h("div", { class: "entry card" });
  const told = h("p", { role: "status" });
  const resend = async () => {
    try {
      await api.resendVerification();
      told.textContent = "A mail is on its way.";
    } catch (error) {
      told.textContent = explain(error);
    }
  };
  const form = entryForm({
    title: "Change your password",
    action: "Change password",
    fields: [
      { name: "current_password", label: "Current password", type: "password", autocomplete: "current-password" },
      NEW_PASSWORD,
    ],
    submit: async ({ current_password, new_password }) => {
      await api.changePassword(current_password, new_password);
      form.reset();
      told.textContent = "Your password is changed. You are signed out on all other devices.";
    },
    aside: [],
  });
  card.append(
    h("p", null, h("strong", null, user.username), ` · ${user.email}`),
    user.email_verified
      ? ""
      : h("p", null, "This address is not confirmed. ", h("button", { type: "button", class: "link", onclick: resend }, "Send the mail again")),
    told,
    form,
  );
  return framed(card);
}

function say(card, title, text, link = "") {
  const heading = h("h1", { tabindex: "-1" }, title);
  card.replaceChildren(heading, h("p", { role: "status" }, text), h("p", { class: "actions" }, link));
  heading.focus({ preventScroll: true });
}

function signInLink() {
  return h("a", { class: "plain", href: "#/signin" }, "Sign in");
}

function framed(card) {
  return h("div", { class: "page narrow" }, card);
}
