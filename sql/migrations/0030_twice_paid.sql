-- Of a course that was paid for twice what is left of one payment is given back: refunds that failed, and those of a part,
-- have not given it back. What Stripe took on and the bank sent back would come back again: that is a job that is dead from
-- the start, and whoever tries it once more asks anew.
CREATE FUNCTION give_back(payment transactions) RETURNS void LANGUAGE plpgsql AS $$
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
      AND requested_by IS NULL AND reason = 'duplicate'
    ORDER BY id DESC LIMIT 1;
    IF refund IS NOT NULL THEN
        INSERT INTO jobs (kind, payload, dead_at, error)
        VALUES ('payment_refund', jsonb_build_object('refund_id', refund), now(), 'the refund came back');
        RETURN;
    END IF;
    INSERT INTO refunds (transaction_id, amount, reason) VALUES (payment.id, amount_left, 'duplicate')
    RETURNING id INTO refund;
    INSERT INTO jobs (kind, payload) VALUES ('payment_refund', jsonb_build_object('refund_id', refund));
END $$;

CREATE OR REPLACE FUNCTION note_paid() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    other uuid;
BEGIN
    -- Two purchases of one course take turns here; each then sees the other.
    PERFORM pg_advisory_xact_lock(hashtextextended('purchase ' || NEW.user_id || NEW.course_id, 0));
    SELECT id INTO other FROM transactions
    WHERE user_id = NEW.user_id AND course_id = NEW.course_id AND id <> NEW.id AND is_paid(status)
    ORDER BY id DESC LIMIT 1;
    IF is_paid(NEW.status) THEN
        IF other IS NOT NULL THEN
            PERFORM give_back(NEW);
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
