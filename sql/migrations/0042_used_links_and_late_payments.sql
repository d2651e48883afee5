-- One that was used, or ended by another password, stays until it is out of date: its mail may be sent once more, by who
-- does not know that it went out, and must not make it good again.
ALTER TABLE mail_tokens ADD COLUMN used_at timestamptz;

-- When an invoice was paid is told by Stripe's clock, in whole seconds: in the second in which somebody leaves that is before
-- it. So what was paid in the minute before and is learned of when they have left counts as paid afterwards.
CREATE OR REPLACE FUNCTION was_left_before(payment transactions) RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT EXISTS (
        SELECT 1 FROM users
        WHERE id = payment.user_id AND erased_at < payment.succeeded_at
            + CASE WHEN payment.subscription_id IS NULL THEN interval '0' ELSE interval '1 minute' END)
$$;
