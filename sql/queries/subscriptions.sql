-- name: list_plans(after, page_size)
-- Those that are offered, by name.
SELECT p.id, p.plan_name, p.monthly, p.yearly, p.currency, p.covers_all, p.created_at, p.updated_at,
    ARRAY(SELECT course_id FROM plan_courses WHERE plan_id = p.id ORDER BY course_id) AS course_ids
FROM plans AS p WHERE p.is_offered AND (:after::text IS NULL OR p.plan_name > :after)
ORDER BY p.plan_name LIMIT :page_size;

-- name: get_offered_plan(plan_name)^
SELECT id, plan_name, monthly, yearly, currency FROM plans WHERE plan_name = :plan_name AND is_offered;

-- name: get_plan(plan_id)^
SELECT id, plan_name, monthly, yearly, currency FROM plans WHERE id = :plan_id;

-- name: get_by_key(user_id, idempotency_key, ttl_s)^
-- What the same request made before it was cut off.
SELECT * FROM shown_subscriptions
WHERE user_id = :user_id AND idempotency_key = :idempotency_key AND created_at > now() - make_interval(secs => :ttl_s)
ORDER BY id DESC LIMIT 1;

-- name: insert_subscription(user_id, plan_id, billing_period, price, currency, payment_method_id, idempotency_key)$
-- None when another one is live or begun.
INSERT INTO subscriptions (user_id, plan_id, billing_period, price, currency, payment_method_id, idempotency_key)
VALUES (:user_id, :plan_id, :billing_period, :price, :currency, :payment_method_id, :idempotency_key)
ON CONFLICT (user_id) WHERE status <> 'canceled' DO NOTHING RETURNING id;

-- name: get_live(user_id)^
SELECT * FROM shown_subscriptions WHERE user_id = :user_id AND status <> 'canceled';

-- name: get_subscription(subscription_id)^
SELECT * FROM shown_subscriptions WHERE id = :subscription_id;

-- name: get_own_subscription(subscription_id, user_id)^
SELECT * FROM shown_subscriptions WHERE id = :subscription_id AND user_id = :user_id;

-- name: list_subscriptions(user_id, before, page_size)
SELECT * FROM shown_subscriptions
WHERE user_id = :user_id AND (:before::uuid IS NULL OR id < :before)
ORDER BY id DESC LIMIT :page_size;

-- name: find_named(stripe_id, named)$
-- By Stripe's id or, as long as we may not know that, by ours, which its metadata name from the start.
SELECT id FROM subscriptions
WHERE stripe_id = :stripe_id OR (id = :named AND (stripe_id = :stripe_id) IS NOT FALSE)
ORDER BY (stripe_id = :stripe_id) DESC NULLS LAST LIMIT 1;

-- name: list_of_customer(customer)
-- Of whom Stripe calls so, those that Stripe has or may have, the newest first.
SELECT s.id FROM subscriptions AS s JOIN customers AS c ON c.user_id = s.user_id
WHERE :customer = ANY (c.stripe_id || c.former) AND (s.stripe_id IS NOT NULL OR s.status <> 'canceled')
ORDER BY s.id DESC;

-- name: withdraw_subscription(subscription_id)!
-- The same request may begin it anew.
UPDATE subscriptions SET status = 'canceled', idempotency_key = NULL
WHERE id = :subscription_id AND status = 'incomplete' AND stripe_id IS NULL;

-- name: end_subscription(subscription_id, failure_code)!
-- One that Stripe does not have and will not have.
UPDATE subscriptions SET status = 'canceled', failure_code = coalesce(:failure_code, failure_code)
WHERE id = :subscription_id AND status = 'incomplete' AND stripe_id IS NULL;

-- name: note_failure(subscription_id, failure_code)!
UPDATE subscriptions SET failure_code = :failure_code WHERE id = :subscription_id AND failure_code IS NULL;

-- name: read_clock()$
-- One clock for all processes.
SELECT clock_timestamp();

-- name: note_subscription(subscription_id, asked_at, stripe_id, plan_id, status, billing_period, price, currency, current_period_end, cancel_at_period_end, canceled_at, payment_method_id)$
-- What Stripe answered to who asked at `asked_at`; nothing when an answer came since then, unless the clock was set back
-- in the meantime. Somebody there may have made a price of their own: a plan that is none of ours, or a period or price
-- that we have no word for, is as it was.
UPDATE subscriptions SET
    stripe_id = :stripe_id, plan_id = coalesce((SELECT p.id FROM plans AS p WHERE p.id = :plan_id), plan_id),
    status = :status, billing_period = coalesce(:billing_period, billing_period), price = coalesce(:price, price),
    currency = :currency, current_period_end = :current_period_end, cancel_at_period_end = :cancel_at_period_end,
    canceled_at = :canceled_at, payment_method_id = :payment_method_id,
    past_due_since = CASE WHEN :status = 'past_due' THEN coalesce(past_due_since, now()) END,
    told_at = clock_timestamp()
WHERE id = :subscription_id AND (told_at < :asked_at OR told_at > clock_timestamp()) RETURNING id;

-- name: note_invoice(user_id, subscription_id, amount, currency, transaction_reference, payment_method_id, paid_at)!
-- A period that was paid for; once, whoever tells it and however often.
INSERT INTO transactions (user_id, subscription_id, amount, currency, transaction_reference, payment_method_id, succeeded_at)
VALUES (:user_id, :subscription_id, :amount, :currency, :transaction_reference, :payment_method_id, :paid_at)
ON CONFLICT (transaction_reference) DO NOTHING;
