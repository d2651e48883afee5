-- Money. What is known of a payment are facts that only rise, in whatever order they are told; its status is a function
-- of them; and who paid is enrolled in the statement that learns of it, whoever wrote that statement.
-- Locks are taken in this order: an event, a transaction, its refunds and disputes, an enrolment.

-- Who a user is at Stripe.
CREATE TABLE customers (
    user_id uuid PRIMARY KEY REFERENCES users ON DELETE RESTRICT,
    stripe_id text NOT NULL CONSTRAINT customers_stripe_id_key UNIQUE,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);

-- Stripe's id is kept sealed (server/data/sealing.py); its hash finds it again. One that was removed stays until Stripe
-- was told.
CREATE TABLE payment_methods (
    id uuid PRIMARY KEY DEFAULT uuidv7(),
    user_id uuid NOT NULL REFERENCES users ON DELETE RESTRICT,
    provider text NOT NULL DEFAULT 'stripe' CONSTRAINT payment_methods_provider CHECK (provider = 'stripe'),
    sealed_token bytea NOT NULL,
    token_hash bytea NOT NULL,
    brand text NOT NULL,
    card_last_four text NOT NULL CONSTRAINT payment_methods_card_last_four CHECK (card_last_four ~ '^[0-9]{4}$'),
    card_expiry text NOT NULL CONSTRAINT payment_methods_card_expiry CHECK (card_expiry ~ '^(0[1-9]|1[0-2])/[0-9]{4}$'),
    is_default boolean NOT NULL DEFAULT false,
    removed_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX payment_methods_user_id_idx ON payment_methods (user_id, id DESC);
CREATE UNIQUE INDEX payment_methods_token_key ON payment_methods (token_hash) WHERE removed_at IS NULL;
CREATE UNIQUE INDEX payment_methods_default_key ON payment_methods (user_id) WHERE is_default AND removed_at IS NULL;

-- The first is the default, and when the default goes the newest one left takes its place.
CREATE FUNCTION keep_default_method() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE payment_methods SET is_default = true
    WHERE id = (SELECT id FROM payment_methods
                WHERE user_id = NEW.user_id AND removed_at IS NULL ORDER BY id DESC LIMIT 1)
      AND NOT EXISTS (SELECT 1 FROM payment_methods
                      WHERE user_id = NEW.user_id AND removed_at IS NULL AND is_default);
    RETURN NULL;
END $$;
CREATE TRIGGER keep_default_method AFTER INSERT OR UPDATE OF removed_at ON payment_methods
    FOR EACH ROW EXECUTE FUNCTION keep_default_method();

-- Stripe is told of one that was removed, however it was.
CREATE FUNCTION note_removed_method() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO jobs (kind, payload) VALUES ('method_removal', jsonb_build_object('method_id', NEW.id));
    RETURN NULL;
END $$;
CREATE TRIGGER note_removed_method AFTER UPDATE OF removed_at ON payment_methods
    FOR EACH ROW WHEN (OLD.removed_at IS NULL AND NEW.removed_at IS NOT NULL) EXECUTE FUNCTION note_removed_method();

-- -- transactions ------------------------------------------------------------------------------------------------------

ALTER TABLE transactions
    -- What is left of a month may cost less than anything that is sold.
    DROP CONSTRAINT transactions_amount,
    ADD CONSTRAINT transactions_amount CHECK (amount BETWEEN 0.01 AND 999999.99),
    ADD COLUMN payment_method_id uuid REFERENCES payment_methods ON DELETE SET NULL,
    -- The client's, so that the same request finds its row after a crash.
    ADD COLUMN idempotency_key text,
    -- The facts.
    ADD COLUMN needs_action boolean NOT NULL DEFAULT false,
    ADD COLUMN succeeded_at timestamptz,
    ADD COLUMN failed_at timestamptz,
    ADD COLUMN canceled_at timestamptz,
    ADD COLUMN is_disputed boolean NOT NULL DEFAULT false;
UPDATE transactions SET
    needs_action = status = 'requires_action',
    succeeded_at = CASE WHEN status IN ('succeeded', 'partially_refunded', 'refunded', 'disputed') THEN created_at END,
    failed_at = CASE WHEN status = 'failed' THEN created_at END,
    canceled_at = CASE WHEN status = 'canceled' THEN created_at END,
    is_disputed = status = 'disputed';
CREATE INDEX transactions_payment_method_id_idx ON transactions (payment_method_id);
CREATE INDEX transactions_idempotency_key_idx ON transactions (user_id, idempotency_key) WHERE idempotency_key IS NOT NULL;
CREATE UNIQUE INDEX transactions_transaction_reference_key ON transactions (transaction_reference);
CREATE UNIQUE INDEX transactions_open_purchase_key ON transactions (user_id, course_id)
    WHERE status IN ('pending', 'requires_action') AND course_id IS NOT NULL;

-- A later fact never hides a greater one: money that came came, whatever was said before.
CREATE FUNCTION transaction_status(t transactions) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE
        WHEN t.succeeded_at IS NOT NULL AND t.is_disputed THEN 'disputed'
        WHEN t.succeeded_at IS NOT NULL AND t.refunded_amount >= t.amount THEN 'refunded'
        WHEN t.succeeded_at IS NOT NULL AND t.refunded_amount > 0 THEN 'partially_refunded'
        WHEN t.succeeded_at IS NOT NULL THEN 'succeeded'
        WHEN t.failed_at IS NOT NULL THEN 'failed'
        WHEN t.canceled_at IS NOT NULL THEN 'canceled'
        WHEN t.needs_action THEN 'requires_action'
        ELSE 'pending'
    END
$$;

CREATE FUNCTION is_paid(status text) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$
    SELECT status IN ('succeeded', 'partially_refunded')
$$;

-- What was agreed upon is frozen, facts only rise, and the status follows from them.
CREATE FUNCTION settle_transaction() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'UPDATE' THEN
        IF (NEW.user_id, NEW.course_id, NEW.subscription_id, NEW.amount, NEW.currency)
           IS DISTINCT FROM (OLD.user_id, OLD.course_id, OLD.subscription_id, OLD.amount, OLD.currency) THEN
            RAISE EXCEPTION 'a transaction''s subject and price never change'
                USING ERRCODE = 'check_violation', CONSTRAINT = 'transactions_frozen', TABLE = 'transactions';
        END IF;
        NEW.transaction_reference := coalesce(OLD.transaction_reference, NEW.transaction_reference);
        NEW.needs_action := OLD.needs_action OR NEW.needs_action;
        NEW.succeeded_at := coalesce(OLD.succeeded_at, NEW.succeeded_at);
        NEW.failed_at := coalesce(OLD.failed_at, NEW.failed_at);
        NEW.canceled_at := coalesce(OLD.canceled_at, NEW.canceled_at);
    END IF;
    NEW.status := transaction_status(NEW);
    RETURN NEW;
END $$;
CREATE TRIGGER settle_transaction BEFORE INSERT OR UPDATE ON transactions
    FOR EACH ROW EXECUTE FUNCTION settle_transaction();

-- -- refunds and disputes ----------------------------------------------------------------------------------------------

-- `requested` until Stripe has taken it on. One that Stripe made by itself has no `requested_by`.
CREATE TABLE refunds (
    id uuid PRIMARY KEY DEFAULT uuidv7(),
    transaction_id uuid NOT NULL REFERENCES transactions ON DELETE RESTRICT,
    stripe_id text CONSTRAINT refunds_stripe_id_key UNIQUE,
    amount numeric(8, 2) NOT NULL CONSTRAINT refunds_amount CHECK (amount BETWEEN 0.01 AND 999999.99),
    status text NOT NULL DEFAULT 'requested'
        CONSTRAINT refunds_status CHECK (status IN ('requested', 'pending', 'succeeded', 'failed')),
    reason text NOT NULL DEFAULT '',
    requested_by uuid REFERENCES users ON DELETE RESTRICT,
    idempotency_key text,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX refunds_transaction_id_idx ON refunds (transaction_id);
CREATE INDEX refunds_requested_by_idx ON refunds (requested_by);

CREATE TABLE disputes (
    id uuid PRIMARY KEY DEFAULT uuidv7(),
    transaction_id uuid NOT NULL REFERENCES transactions ON DELETE RESTRICT,
    stripe_id text NOT NULL CONSTRAINT disputes_stripe_id_key UNIQUE,
    -- An `inquiry` takes no money yet. What is `won` or `lost` stays so.
    status text NOT NULL CONSTRAINT disputes_status CHECK (status IN ('inquiry', 'open', 'won', 'lost')),
    amount numeric(8, 2) NOT NULL CONSTRAINT disputes_amount CHECK (amount BETWEEN 0 AND 999999.99),
    reason text NOT NULL DEFAULT '',
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX disputes_transaction_id_idx ON disputes (transaction_id);

CREATE FUNCTION refund_rank(status text) RETURNS integer LANGUAGE sql IMMUTABLE AS $$
    SELECT array_position(ARRAY['requested', 'pending', 'succeeded', 'failed'], status)
$$;
CREATE FUNCTION dispute_rank(status text) RETURNS integer LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE status WHEN 'inquiry' THEN 1 WHEN 'open' THEN 2 ELSE 3 END
$$;

-- Of two at once the second must see the first: only then it may sum up.
CREATE FUNCTION note_refund() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM 1 FROM transactions WHERE id = NEW.transaction_id FOR NO KEY UPDATE;
    UPDATE transactions AS t SET refunded_amount = sums.refunded
    FROM (SELECT coalesce(sum(amount), 0) AS refunded FROM refunds
          WHERE transaction_id = NEW.transaction_id AND status IN ('pending', 'succeeded')) AS sums
    WHERE t.id = NEW.transaction_id AND t.refunded_amount <> sums.refunded;
    RETURN NULL;
END $$;
CREATE TRIGGER note_refund AFTER INSERT OR UPDATE ON refunds FOR EACH ROW EXECUTE FUNCTION note_refund();

CREATE FUNCTION note_dispute() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM 1 FROM transactions WHERE id = NEW.transaction_id FOR NO KEY UPDATE;
    UPDATE transactions AS t SET is_disputed = found.is_disputed
    FROM (SELECT EXISTS (SELECT 1 FROM disputes
                         WHERE transaction_id = NEW.transaction_id AND status IN ('open', 'lost')) AS is_disputed) AS found
    WHERE t.id = NEW.transaction_id AND t.is_disputed <> found.is_disputed;
    RETURN NULL;
END $$;
CREATE TRIGGER note_dispute AFTER INSERT OR UPDATE ON disputes FOR EACH ROW EXECUTE FUNCTION note_dispute();

-- -- paid means enrolled -----------------------------------------------------------------------------------------------

-- The transaction by which the user paid for the course and did not get all of it back; NULL when there is none. What is
-- disputed is not paid.
CREATE OR REPLACE FUNCTION purchase_of(viewer uuid, course uuid) RETURNS uuid LANGUAGE sql STABLE AS $$
    SELECT id FROM transactions
    WHERE user_id = viewer AND course_id = course AND is_paid(status)
    ORDER BY id DESC LIMIT 1
$$;

-- Whoever enrols somebody by a purchase holds that purchase, so that it is not given back in the same moment.
CREATE FUNCTION check_enrollment_paid() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM 1 FROM transactions
    WHERE id = NEW.transaction_id AND user_id = NEW.user_id AND course_id = NEW.course_id AND is_paid(status)
    FOR SHARE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'this purchase is not paid'
            USING ERRCODE = 'check_violation', CONSTRAINT = 'enrollments_paid', TABLE = 'enrollments';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER check_enrollment_paid BEFORE INSERT OR UPDATE OF source, transaction_id, is_active ON enrollments
    FOR EACH ROW WHEN (NEW.is_active AND NEW.source = 'purchase') EXECUTE FUNCTION check_enrollment_paid();

-- A purchase that became paid enrols, unless the user is enrolled for good already; a second one of the same course is
-- given back by a job. One that is no longer paid ends what stands on it, or leaves it to another that is.
CREATE FUNCTION note_paid() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    other uuid;
    refund uuid;
BEGIN
    -- Two purchases of one course take turns here; each then sees the other.
    PERFORM pg_advisory_xact_lock(hashtextextended('purchase ' || NEW.user_id || NEW.course_id, 0));
    SELECT id INTO other FROM transactions
    WHERE user_id = NEW.user_id AND course_id = NEW.course_id AND id <> NEW.id AND is_paid(status)
    ORDER BY id DESC LIMIT 1;
    IF is_paid(NEW.status) THEN
        IF other IS NOT NULL AND NOT EXISTS (SELECT 1 FROM refunds WHERE transaction_id = NEW.id) THEN
            INSERT INTO refunds (transaction_id, amount, reason) VALUES (NEW.id, NEW.amount, 'duplicate')
            RETURNING id INTO refund;
            INSERT INTO jobs (kind, payload) VALUES ('payment_refund', jsonb_build_object('refund_id', refund));
        END IF;
        INSERT INTO enrollments AS kept (user_id, course_id, source, transaction_id)
        SELECT id, NEW.course_id, 'purchase', NEW.id FROM users WHERE id = NEW.user_id AND erased_at IS NULL
        ON CONFLICT (user_id, course_id) DO UPDATE
        SET is_active = true, expires_at = NULL, source = 'purchase', transaction_id = EXCLUDED.transaction_id,
            enrolled_at = CASE WHEN kept.is_active THEN kept.enrolled_at ELSE now() END
        WHERE NOT kept.is_active OR kept.expires_at IS NOT NULL;
    ELSIF other IS NOT NULL THEN
        UPDATE enrollments SET transaction_id = other
        WHERE user_id = NEW.user_id AND course_id = NEW.course_id AND source = 'purchase' AND transaction_id = NEW.id;
    ELSE
        UPDATE enrollments SET is_active = false
        WHERE user_id = NEW.user_id AND course_id = NEW.course_id AND source = 'purchase' AND transaction_id = NEW.id
          AND is_active;
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER note_paid AFTER INSERT ON transactions
    FOR EACH ROW WHEN (NEW.course_id IS NOT NULL AND is_paid(NEW.status)) EXECUTE FUNCTION note_paid();
CREATE TRIGGER note_changed_paid AFTER UPDATE ON transactions
    FOR EACH ROW WHEN (NEW.course_id IS NOT NULL AND is_paid(OLD.status) <> is_paid(NEW.status))
    EXECUTE FUNCTION note_paid();

-- How much of a course somebody watched, 0 to 1, by the length of its lectures; what was completed by hand was not.
CREATE FUNCTION watched_share(learner uuid, course uuid) RETURNS double precision LANGUAGE sql STABLE AS $$
    SELECT coalesce(
        sum(least(covered(p.watched_ranges), l.end_ms)) FILTER (WHERE p.lecture_id IS NOT NULL)
            / nullif(sum(l.end_ms), 0)::double precision,
        0)
    FROM lectures AS l LEFT JOIN progress AS p ON p.lecture_id = l.id AND p.user_id = learner
    WHERE l.course_id = course AND l.end_ms IS NOT NULL
$$;

-- -- what Stripe tells -------------------------------------------------------------------------------------------------

-- Every event once. `facts` is what we read of it, without what is secret in it; one that is `dead` waits for somebody
-- to look at it, with why.
CREATE TABLE webhook_events (
    id text PRIMARY KEY,
    type text NOT NULL,
    status text NOT NULL CONSTRAINT webhook_events_status CHECK (status IN ('done', 'dead')),
    facts jsonb NOT NULL DEFAULT '{}',
    reason text,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX webhook_events_dead_idx ON webhook_events (created_at) WHERE status = 'dead';
CREATE INDEX webhook_events_done_idx ON webhook_events (created_at) WHERE status = 'done';

DO $$
DECLARE name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['customers', 'payment_methods', 'refunds', 'disputes', 'webhook_events'] LOOP
        EXECUTE format('CREATE TRIGGER set_updated_at BEFORE UPDATE ON %I FOR EACH ROW EXECUTE FUNCTION set_updated_at()', name);
    END LOOP;
END $$;
