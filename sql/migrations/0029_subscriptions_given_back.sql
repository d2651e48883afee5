-- Who gets the money for a subscription back has it no more. A part of the money ends nothing, nor does all that was paid
-- for a period that is over; Stripe is told by a job.
CREATE FUNCTION end_subscription_of(payment uuid) RETURNS void LANGUAGE sql AS $$
    INSERT INTO jobs (kind, payload)
    SELECT 'subscription_end', jsonb_build_object('subscription_id', s.id)
    FROM transactions AS t JOIN subscriptions AS s ON s.id = t.subscription_id
    WHERE t.id = payment AND s.status <> 'canceled' AND (
        -- The difference that a dearer plan cost is of the same period, and is not all that was paid for it.
        t.succeeded_at > now() - CASE s.billing_period WHEN 'yearly' THEN interval '1 year' ELSE interval '1 month' END
        OR NOT EXISTS (
            SELECT 1 FROM transactions AS later
            WHERE later.subscription_id = s.id AND later.succeeded_at > t.succeeded_at AND is_paid(later.status)))
$$;

CREATE FUNCTION note_given_back() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM end_subscription_of(NEW.id);
    RETURN NULL;
END $$;
CREATE TRIGGER note_given_back AFTER UPDATE ON transactions
    FOR EACH ROW WHEN (NEW.subscription_id IS NOT NULL AND NEW.status = 'refunded' AND OLD.status <> 'refunded')
    EXECUTE FUNCTION note_given_back();

-- What is disputed may still be won, and a subscription that has ended never begins again: so not before it is lost.
CREATE FUNCTION note_lost_dispute() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM end_subscription_of(NEW.transaction_id);
    RETURN NULL;
END $$;
CREATE TRIGGER note_lost_dispute AFTER INSERT OR UPDATE ON disputes
    FOR EACH ROW WHEN (NEW.status = 'lost') EXECUTE FUNCTION note_lost_dispute();

-- How much was watched of what was paid for, 0 to 1: of the course, or of that one of a plan's courses of which it is
-- most. What its learner may watch without the subscription does not count.
CREATE FUNCTION watched_share_of(payment transactions) RETURNS double precision LANGUAGE sql STABLE AS $$
    SELECT CASE
        WHEN payment.course_id IS NOT NULL THEN watched_share(payment.user_id, payment.course_id)
        ELSE (
            SELECT coalesce(max(watched_share(payment.user_id, c.id)), 0)
            FROM subscriptions AS s JOIN plans AS p ON p.id = s.plan_id CROSS JOIN courses AS c
            WHERE s.id = payment.subscription_id
              AND c.id IN (SELECT l.course_id FROM progress AS seen JOIN lectures AS l ON l.id = seen.lecture_id
                           WHERE seen.user_id = payment.user_id)
              AND (p.covers_all OR EXISTS (SELECT 1 FROM plan_courses WHERE plan_id = p.id AND course_id = c.id))
              AND NOT c.is_free AND c.creator_id <> payment.user_id
              AND NOT EXISTS (SELECT 1 FROM enrollments AS e
                              WHERE e.user_id = payment.user_id AND e.course_id = c.id AND e.is_active
                                AND e.source <> 'subscription'))
    END
$$;
