-- Who left is enrolled in nothing any more. What they had begun to buy is given up at once, and what was paid for all the
-- same, as the bank's question was answered elsewhere, is given back.

CREATE FUNCTION note_buyer_left() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO jobs (kind, payload)
    SELECT 'payment_look', jsonb_build_object('transaction_id', id)
    FROM transactions
    WHERE user_id = NEW.id AND status IN ('pending', 'requires_action') AND course_id IS NOT NULL;
    RETURN NULL;
END $$;
CREATE TRIGGER note_buyer_left AFTER UPDATE OF erased_at ON users
    FOR EACH ROW WHEN (OLD.erased_at IS NULL AND NEW.erased_at IS NOT NULL) EXECUTE FUNCTION note_buyer_left();

-- As before (0030_twice_paid.sql), with why.
CREATE FUNCTION give_back(payment transactions, why text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    amount_left numeric;
    refund uuid;
BEGIN
    SELECT payment.amount - coalesce(sum(amount), 0) INTO amount_left
    FROM refunds WHERE transaction_id = payment.id AND status <> 'failed';
    IF amount_left <= 0 THEN
        RETURN;
    END IF;
    SELECT id INTO refund FROM refunds
    WHERE transaction_id = payment.id AND status = 'failed' AND stripe_id IS NOT NULL
      AND requested_by IS NULL AND reason = why
    ORDER BY id DESC LIMIT 1;
    IF refund IS NOT NULL THEN
        INSERT INTO jobs (kind, payload, dead_at, error)
        VALUES ('payment_refund', jsonb_build_object('refund_id', refund), now(), 'the refund came back');
        RETURN;
    END IF;
    INSERT INTO refunds (transaction_id, amount, reason) VALUES (payment.id, amount_left, why)
    RETURNING id INTO refund;
    INSERT INTO jobs (kind, payload) VALUES ('payment_refund', jsonb_build_object('refund_id', refund));
END $$;
CREATE OR REPLACE FUNCTION give_back(payment transactions) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM give_back(payment, 'duplicate');
END $$;

CREATE FUNCTION was_left_before(payment transactions) RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT EXISTS (SELECT 1 FROM users WHERE id = payment.user_id AND erased_at < payment.succeeded_at)
$$;

CREATE FUNCTION note_paid_after_leaving() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF was_left_before(NEW) THEN
        PERFORM give_back(NEW, 'account deleted');
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER note_paid_after_leaving AFTER INSERT ON transactions
    FOR EACH ROW WHEN (is_paid(NEW.status)) EXECUTE FUNCTION note_paid_after_leaving();
CREATE TRIGGER note_changed_paid_after_leaving AFTER UPDATE ON transactions
    FOR EACH ROW WHEN (is_paid(NEW.status) AND NOT is_paid(OLD.status)) EXECUTE FUNCTION note_paid_after_leaving();
