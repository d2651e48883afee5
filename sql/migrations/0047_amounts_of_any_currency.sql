-- Somebody at Stripe may have a subscription cost more than anything that is sold here: a million yen are no great sum, and
-- Stripe takes up to ten thousand million rupiah. What was paid, given back or disputed is written down whatever it is; what
-- is sold keeps its bounds. Digits before the point alone become more, so that no row is written anew; the constraints are
-- looked at once.

-- It names a column that changes, and comes back as it was (0022_subscriptions.sql). Who reads it holds it before the tables
-- behind it, so it goes first; then, as whoever pays waits meanwhile, all of them at once and in the order in which they are
-- locked.
DROP VIEW shown_subscriptions;
LOCK TABLE subscriptions, transactions, refunds, disputes IN ACCESS EXCLUSIVE MODE;

ALTER TABLE subscriptions
    DROP CONSTRAINT subscriptions_price,
    ALTER COLUMN price TYPE numeric(14, 2),
    ADD CONSTRAINT subscriptions_price CHECK (price BETWEEN 0 AND 999999999999.99);

ALTER TABLE transactions
    DROP CONSTRAINT transactions_amount,
    ALTER COLUMN amount TYPE numeric(14, 2),
    ALTER COLUMN refunded_amount TYPE numeric(14, 2),
    ADD CONSTRAINT transactions_amount CHECK (amount BETWEEN 0.01 AND 999999999999.99);

ALTER TABLE refunds
    DROP CONSTRAINT refunds_amount,
    ALTER COLUMN amount TYPE numeric(14, 2),
    ADD CONSTRAINT refunds_amount CHECK (amount BETWEEN 0.01 AND 999999999999.99);

ALTER TABLE disputes
    DROP CONSTRAINT disputes_amount,
    ALTER COLUMN amount TYPE numeric(14, 2),
    ADD CONSTRAINT disputes_amount CHECK (amount BETWEEN 0 AND 999999999999.99);

CREATE VIEW shown_subscriptions AS
SELECT
    s.id, s.user_id, s.plan_id, p.plan_name, s.status, s.billing_period, s.price, s.currency,
    CASE WHEN s.status IN ('active', 'past_due') AND NOT s.cancel_at_period_end THEN s.current_period_end END
        AS next_billing_date,
    s.current_period_end, s.cancel_at_period_end, s.canceled_at, s.payment_method_id, s.created_at, s.updated_at,
    s.stripe_id, s.idempotency_key, s.failure_code
FROM subscriptions AS s JOIN plans AS p ON p.id = s.plan_id;
