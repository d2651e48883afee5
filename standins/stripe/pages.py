"""Pages for people: what was booked, the bank's question of 3-D Secure, and the script and form of a shop's page."""

from __future__ import annotations

import hmac
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from urllib.parse import parse_qsl, urlencode, urlsplit

from aiohttp import hdrs, web

from standins.stripe.cards import CARDS
from standins.stripe.control import answer_bank, ledger, totals
from standins.stripe.operations import Call
from standins.stripe.store import SETTINGS, STORE
from standins.stripe.webhooks import DELIVERIES
from standins.stripe.wire import ApiError, Json, Parameters

ZERO_DECIMAL = {
    "bif",
    "clp",
    "djf",
    "gnf",
    "jpy",
    "kmf",
    "krw",
    "mga",
    "pyg",
    "rwf",
    "ugx",
    "vnd",
    "vuv",
    "xaf",
    "xof",
    "xpf",
}
SHOWN = 500
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #1b1f24 }
table { border-collapse: collapse; width: 100% } th, td { text-align: left; padding: .35rem .6rem; vertical-align: top }
tr + tr { border-top: 1px solid #d0d7de } td.amount { text-align: right; font-variant-numeric: tabular-nums }
small { color: #57606a; overflow-wrap: anywhere } main.question { max-width: 26rem; margin: 12vh auto }
button { font: inherit; padding: .6rem 1.2rem; border-radius: 8px; border: 1px solid #1f6feb; margin-right: .5rem }
#card { display: grid; gap: .6rem; margin: 0 } #card label { display: grid; gap: .2rem }
#fault { color: #b42318; margin: 0 }
#card input, #card select { font: inherit; padding: .4rem } body:has(#card) { margin: 0; padding: .25rem }
button.yes { background: #1f6feb; color: #fff }
"""
PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title><style>{style}</style>{body}</html>"""
POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'self'; connect-src 'self'; form-action 'self' {to}; "
    "frame-ancestors *"
)

routes = web.RouteTableDef()


def _page(title: str, body: str, *, form_to: str = "", status: int = 200) -> web.Response:
    headers = {"Content-Security-Policy": POLICY.format(to=form_to), "Cache-Control": "no-store"}
    text = PAGE.format(title=escape(title), style=STYLE, body=body)
    return web.Response(text=text, content_type="text/html", headers=headers, status=status)


def shown_amount(amount: int, currency: str) -> str:
    """In the currency's own unit, as `-12.50 usd`."""
    sign = "-" if amount < 0 else ""
    whole = f"{abs(amount)}" if currency in ZERO_DECIMAL else f"{abs(amount) / 100:.2f}"
    return f"{sign}{whole} {currency}"


@routes.get("/")
async def show_ledger(request: web.Request) -> web.Response:
    """What came in and went out, the newest first."""
    lines = ledger(request.app[STORE])
    rows = "".join(_row(line) for line in lines[: -SHOWN - 1 : -1])
    sums = ", ".join(shown_amount(amount, currency) for currency, amount in sorted(totals(lines).items()))
    table = (
        f"<table><tr><th>When</th><th>What</th><th>Amount</th><th>Payment</th><th>Metadata</th></tr>{rows}</table>"
        if lines
        else "<p>Nothing yet.</p>"
    )
    about = f"<p>No money moves: this stands in for Stripe. {len(lines)} lines; left: {escape(sums) or 'nothing'}.</p>"
    return _page("Ledger", f"<h1>Ledger</h1>{about}{table}")


def _row(line: Json) -> str:
    when = datetime.fromtimestamp(line["created"], UTC).strftime("%Y-%m-%d %H:%M:%S")
    metadata = "<br>".join(escape(f"{key}: {value}") for key, value in sorted(line["metadata"].items()))
    amount = escape(shown_amount(line["amount"], line["currency"]))
    return (
        f"<tr><td>{when}</td><td>{escape(line['type'])}<br><small>{escape(line['source'])}</small></td>"
        f'<td class="amount">{amount}</td><td><small>{escape(line["payment_intent"] or "")}</small></td>'
        f"<td><small>{metadata}</small></td></tr>"
    )


def _asked(request: web.Request) -> Json:
    """The payment that the address is about; the client secret is what lets one see it."""
    intent = request.app[STORE].get(request.match_info["intent"])
    given = request.query.get("client_secret", "")
    if intent is None or not hmac.compare_digest(given.encode(), intent.get("client_secret", "").encode()):
        raise web.HTTPNotFound
    return intent


def _origin(url: str | None) -> str:
    parts = urlsplit(url or "")
    return f"{parts.scheme}://{parts.netloc}" if parts.scheme in ("http", "https") else ""


@routes.get("/3d_secure/{intent}")
async def ask(request: web.Request) -> web.Response:
    """The bank's question."""
    intent = _asked(request)
    if intent["status"] != "requires_action":
        return _page("Answered", '<main class="question"><h1>Answered</h1><p>You can close this page.</p></main>')
    amount = escape(shown_amount(intent["amount"], intent["currency"]))
    body = (
        f'<main class="question"><h1>Your bank asks</h1><p>Do you approve a payment of <b>{amount}</b>?</p>'
        '<form method="post"><button class="yes" name="approved" value="yes">Approve</button>'
        '<button name="approved" value="no">Decline</button></form>'
        "<p><small>A stand-in: no money moves.</small></p></main>"
    )
    return _page("Your bank asks", body, form_to=_origin(intent["_"]["return_url"]))


@routes.post("/3d_secure/{intent}")
async def answer(request: web.Request) -> web.Response:
    """The holder's answer; then back to where the payment came from."""
    intent = _asked(request)
    approved = (await request.post()).get("approved") == "yes"
    store = request.app[STORE]
    try:
        with store.transaction():
            answer_bank(Call(store, request.app[SETTINGS], Parameters()), intent, approved)
    except ApiError as error:
        return _page("Too late", f'<main class="question"><p>{escape(error.message)}</p></main>', status=error.status)
    request.app[DELIVERIES].wake()
    return_url = intent["_"]["return_url"]
    if return_url is None:
        thanks = '<main class="question"><h1>Thank you</h1><p>You can close this page.</p></main>'
        return _page("Answered", f'{thanks}<script src="/answered.js"></script>')
    return web.Response(status=303, headers={hdrs.LOCATION: _back_to(return_url, intent)})


def _back_to(return_url: str, intent: Json) -> str:
    """The address to return to, which is told what came of it."""
    parts = urlsplit(return_url)
    told = {
        "payment_intent": intent["id"],
        "payment_intent_client_secret": intent["client_secret"],
        "redirect_status": "succeeded" if intent["status"] == "succeeded" else "failed",
    }
    return parts._replace(query=urlencode([*parse_qsl(parts.query), *told.items()])).geturl()


# -- what a shop's page loads ------------------------------------------------------------------------------------------

SCRIPTS = Path(__file__).parent / "scripts"
# The names that are good for a number; the first is what the form begins with.
OFFERED = {
    "visa": "Visa",
    "mastercard": "Mastercard",
    "threeDSecure2Required": "asks its bank",
    "chargeCustomerFail": "is declined",
}


@routes.get("/{release:[a-z]+}/stripe.js")
async def get_script(_request: web.Request) -> web.StreamResponse:
    """What stands in for Stripe.js, at an address like its own."""
    return _script("stripe.js")


@routes.get("/{name:answered|form}.js")
async def get_part(request: web.Request) -> web.StreamResponse:
    """Scripts of our own pages."""
    return _script(f"{request.match_info['name']}.js")


def _script(name: str) -> web.StreamResponse:
    headers = {hdrs.CONTENT_TYPE: "text/javascript; charset=utf-8", hdrs.CACHE_CONTROL: "no-cache"}
    return web.FileResponse(SCRIPTS / name, headers=headers)


@routes.get("/elements/payment")
async def show_form(_request: web.Request) -> web.Response:
    """The form for a card: it is in a frame of ours, so the page around it never sees the number."""
    options = "".join(
        f'<option value="{CARDS[name].number}">{CARDS[name].number[-4:]}: {text}</option>'
        for name, text in OFFERED.items()
    )
    first = CARDS["visa"].number
    body = (
        f'<form id="card"><label>Test card <select id="offered">{options}</select></label>'
        f'<label>Card number <input id="number" inputmode="numeric" autocomplete="off" value="{first}"></label>'
        '<label>Expires <input id="expiry" value="12/34" size="7"></label>'
        '<label>CVC <input id="cvc" value="123" size="4"></label><p id="fault" role="alert"></p></form>'
        '<script src="/form.js"></script>'
    )
    return _page("Card", body)
