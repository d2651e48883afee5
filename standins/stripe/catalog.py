"""Products and prices."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from standins.stripe.operations import AnyCall, Call, Page, operation, page_of
from standins.stripe.payment_intents import check_not_too_large
from standins.stripe.wire import ApiError, Json, Metadata, Parameters, changed_metadata, new_id

Interval = Literal["day", "week", "month", "year"]


class ProductUpdate(Parameters):
    active: bool | None = None
    description: str | None = None
    metadata: Metadata = None
    name: str | None = Field(default=None, min_length=1)
    statement_descriptor: str | None = None
    url: str | None = None


class ProductCreate(ProductUpdate):
    id: str | None = None
    name: str = Field(min_length=1)


class ProductList(Page):
    active: bool | None = None


class Recurring(Parameters):
    interval: Interval
    interval_count: int = Field(default=1, ge=1, le=36)
    usage_type: Literal["licensed"] = "licensed"


class ProductData(Parameters):
    name: str
    metadata: Metadata = None


class PriceData(Parameters):
    """A price that is made for one use."""

    currency: str
    product: str
    unit_amount: int = Field(ge=0)
    recurring: Recurring | None = None
    tax_behavior: str | None = None


class PriceUpdate(Parameters):
    active: bool | None = None
    lookup_key: str | None = None
    metadata: Metadata = None
    nickname: str | None = None


class PriceCreate(PriceUpdate):
    currency: str
    product: str | None = None
    product_data: ProductData | None = None
    unit_amount: int = Field(ge=0)
    recurring: Recurring | None = None
    tax_behavior: str | None = None


class PriceList(Page):
    active: bool | None = None
    product: str | None = None
    lookup_keys: list[str] | None = None


@operation("POST", "/v1/products", ProductCreate)
def create_product(call: Call[ProductCreate]) -> Json:
    """Make a product, under an id of one's own if one is given. Raises ApiError when there is such a one."""
    given = call.given
    if given.id is not None and call.store.get(given.id) is not None:
        raise ApiError("Product already exists.", code="resource_already_exists", param="id")
    product: Json = {
        "id": given.id or new_id("prod"),
        "object": "product",
        "active": True,
        "created": call.now,
        "default_price": None,
        "description": None,
        "images": [],
        "livemode": False,
        "marketing_features": [],
        "metadata": {},
        "name": given.name,
        "package_dimensions": None,
        "shippable": None,
        "statement_descriptor": None,
        "tax_code": None,
        "type": "service",
        "unit_label": None,
        "updated": call.now,
        "url": None,
    }
    _change(call, product, ("active", "description", "statement_descriptor", "url"))
    call.store.put(product)
    call.emit("product.created", product)
    return product


def _change(call: Call[Any], item: Json, names: tuple[str, ...]) -> None:
    for name in names:
        value = getattr(call.given, name)
        if value is not None:
            item[name] = None if value == "" else value
    item["metadata"] = changed_metadata(item["metadata"], call.given.metadata)


@operation("GET", "/v1/products", ProductList)
def list_products(call: Call[ProductList]) -> Json:
    """The newest first."""
    return page_of(call, "product", active=call.given.active)


@operation("GET", "/v1/products/{product}")
def get_product(call: AnyCall) -> Json:
    """One product."""
    return call.named("product")


@operation("POST", "/v1/products/{product}", ProductUpdate)
def update_product(call: Call[ProductUpdate]) -> Json:
    """Change what is given."""
    product = call.named("product")
    _change(call, product, ("active", "description", "name", "statement_descriptor", "url"))
    product["updated"] = call.now
    call.store.put(product)
    call.emit("product.updated", product)
    return product


def make_price(call: AnyCall, data: PriceData | PriceCreate, product: str, *, active: bool) -> Json:
    """A new price of a product; one that is made for one use is not active. Raises ApiError."""
    call.find("product", product, param="product")
    check_not_too_large(data.unit_amount, data.currency.lower(), "unit_amount")
    recurring = data.recurring
    price: Json = {
        "id": new_id("price"),
        "object": "price",
        "active": active,
        "billing_scheme": "per_unit",
        "created": call.now,
        "currency": data.currency.lower(),
        "custom_unit_amount": None,
        "livemode": False,
        "lookup_key": None,
        "metadata": {},
        "nickname": None,
        "product": product,
        "recurring": recurring
        and {
            "interval": recurring.interval,
            "interval_count": recurring.interval_count,
            "meter": None,
            "trial_period_days": None,
            "usage_type": recurring.usage_type,
        },
        "tax_behavior": data.tax_behavior or "unspecified",
        "tiers_mode": None,
        "transform_quantity": None,
        "type": "one_time" if recurring is None else "recurring",
        "unit_amount": data.unit_amount,
        "unit_amount_decimal": str(data.unit_amount),
    }
    return call.store.put(price)


@operation("POST", "/v1/prices", PriceCreate)
def create_price(call: Call[PriceCreate]) -> Json:
    """Make a price, with its product if that is described."""
    given = call.given
    if (given.product is None) == (given.product_data is None):
        raise ApiError("You must specify either `product` or `product_data`.", param="product", before_acting=True)
    product = given.product
    if given.product_data is not None:
        inner = Call(call.store, call.settings, ProductCreate(**given.product_data.model_dump()))
        product = create_product(inner)["id"]
    assert product is not None
    price = make_price(call, given, product, active=True)
    _change(call, price, ("active", "lookup_key", "nickname"))
    call.store.put(price)
    call.emit("price.created", price)
    return price


@operation("GET", "/v1/prices", PriceList)
def list_prices(call: Call[PriceList]) -> Json:
    """The newest first."""
    given = call.given
    key = given.lookup_keys[0] if given.lookup_keys else None
    return page_of(call, "price", active=given.active, product=given.product, lookup_key=key)


@operation("GET", "/v1/prices/{price}")
def get_price(call: AnyCall) -> Json:
    """One price."""
    return call.named("price")


@operation("POST", "/v1/prices/{price}", PriceUpdate)
def update_price(call: Call[PriceUpdate]) -> Json:
    """Change what is given; amounts never change."""
    price = call.named("price")
    _change(call, price, ("active", "lookup_key", "nickname"))
    call.store.put(price)
    call.emit("price.updated", price)
    return price
