-- What Stripe says of a subscription is asked, never taken from an event: `told_at` is when the answer that was written
-- last had come. Who asked before that may hold older news, and asks again.

ALTER TABLE subscriptions
    ADD COLUMN stripe_id text CONSTRAINT subscriptions_stripe_id_key UNIQUE,
    ADD COLUMN payment_method_id uuid REFERENCES payment_methods ON DELETE SET NULL,
    -- The client's, so that the same request finds its row after a crash.
    ADD COLUMN idempotency_key text,
    -- Why the first payment did not go through.
    ADD COLUMN failure_code text,
    ADD COLUMN told_at timestamptz NOT NULL DEFAULT '-infinity';
CREATE INDEX subscriptions_payment_method_id_idx ON subscriptions (payment_method_id);
CREATE INDEX subscriptions_idempotency_key_idx ON subscriptions (user_id, idempotency_key) WHERE idempotency_key IS NOT NULL;

-- One that is begun counts: two at once would both be charged.
DROP INDEX subscriptions_live_key;
CREATE UNIQUE INDEX subscriptions_live_key ON subscriptions (user_id) WHERE status <> 'canceled';

-- What has ended stays so, and Stripe's name for it never changes.
CREATE FUNCTION keep_subscription() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.stripe_id := coalesce(OLD.stripe_id, NEW.stripe_id);
    IF OLD.status = 'canceled' AND OLD.stripe_id IS NOT NULL THEN
        NEW.status := 'canceled';
        NEW.past_due_since := NULL;
    END IF;
    NEW.canceled_at := CASE
        WHEN NEW.status = 'canceled' THEN coalesce(NEW.canceled_at, OLD.canceled_at, now())
        ELSE NEW.canceled_at
    END;
    RETURN NEW;
END $$;
CREATE TRIGGER keep_subscription BEFORE UPDATE ON subscriptions FOR EACH ROW EXECUTE FUNCTION keep_subscription();

-- Who leaves subscribes no more; Stripe is told by a job.
CREATE FUNCTION note_subscriber_left() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO jobs (kind, payload)
    SELECT 'subscription_end', jsonb_build_object('subscription_id', id)
    FROM subscriptions WHERE user_id = NEW.id AND status <> 'canceled';
    RETURN NULL;
END $$;
CREATE TRIGGER note_subscriber_left AFTER UPDATE OF erased_at ON users
    FOR EACH ROW WHEN (OLD.erased_at IS NULL AND NEW.erased_at IS NOT NULL) EXECUTE FUNCTION note_subscriber_left();

CREATE VIEW shown_subscriptions AS
SELECT
    s.id, s.user_id, s.plan_id, p.plan_name, s.status, s.billing_period, s.price, s.currency,
    CASE WHEN s.status IN ('active', 'past_due') AND NOT s.cancel_at_period_end THEN s.current_period_end END
        AS next_billing_date,
    s.current_period_end, s.cancel_at_period_end, s.canceled_at, s.payment_method_id, s.created_at, s.updated_at,
    s.stripe_id, s.idempotency_key, s.failure_code
FROM subscriptions AS s JOIN plans AS p ON p.id = s.plan_id;
