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

-- As before (0019_payments.sql), but that another refund may be told before the first is known to have failed: until then no
-- more was given back than was paid.
CREATE OR REPLACE FUNCTION note_refund() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM 1 FROM transactions WHERE id = NEW.transaction_id FOR NO KEY UPDATE;
    UPDATE transactions AS t SET refunded_amount = least(sums.refunded, t.amount)
    FROM (SELECT coalesce(sum(amount), 0) AS refunded FROM refunds
          WHERE transaction_id = NEW.transaction_id AND status IN ('pending', 'succeeded')) AS sums
    WHERE t.id = NEW.transaction_id AND t.refunded_amount <> least(sums.refunded, t.amount);
    RETURN NULL;
END $$;
