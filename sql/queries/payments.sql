-- -- customers and payment methods -------------------------------------------------------------------------------------

-- name: get_customer(user_id)$
SELECT stripe_id FROM customers WHERE user_id = :user_id;

-- name: keep_customer(user_id, stripe_id)$
-- Of two who made one at once the first counts.
INSERT INTO customers AS kept (user_id, stripe_id) VALUES (:user_id, :stripe_id)
ON CONFLICT (user_id) DO UPDATE SET stripe_id = kept.stripe_id RETURNING stripe_id;

-- name: replace_customer(user_id, stripe_id, instead_of)!
-- One that was deleted at Stripe, with whatever cards it had. Of two who made another at once the first counts.
WITH replaced AS (
    UPDATE customers SET stripe_id = :stripe_id, former = former || stripe_id
    WHERE user_id = :user_id AND stripe_id = :instead_of RETURNING user_id
)
UPDATE payment_methods AS m SET removed_at = now(), is_default = false
FROM replaced WHERE m.user_id = replaced.user_id AND m.removed_at IS NULL;

-- name: find_method(user_id, token_hash)^
-- It is not forgotten before the transaction ends, which may write rows that name it.
SELECT * FROM payment_methods WHERE user_id = :user_id AND token_hash = :token_hash AND removed_at IS NULL
FOR KEY SHARE;

-- name: is_removed_method(user_id, token_hash)$
-- Whether Stripe is being told to forget it, or was just now: it takes no such card again.
SELECT EXISTS (SELECT 1 FROM payment_methods
               WHERE user_id = :user_id AND token_hash = :token_hash AND removed_at IS NOT NULL);

-- name: lock_methods(user_id)!
-- Whoever changes a user's methods takes turns with others who do.
SELECT 1 FROM users WHERE id = :user_id FOR NO KEY UPDATE;

-- name: insert_method(user_id, sealed_token, token_hash, brand, card_last_four, card_expiry)$
INSERT INTO payment_methods (user_id, sealed_token, token_hash, brand, card_last_four, card_expiry)
VALUES (:user_id, :sealed_token, :token_hash, :brand, :card_last_four, :card_expiry) RETURNING id;

-- name: drop_default_method(user_id, method_id)!
UPDATE payment_methods SET is_default = false WHERE user_id = :user_id AND id <> :method_id AND is_default;

-- name: set_default_method(method_id)^
UPDATE payment_methods SET is_default = true WHERE id = :method_id RETURNING *;

-- name: get_method(user_id, method_id)^
-- One's own; the default when none is named.
SELECT * FROM payment_methods
WHERE user_id = :user_id AND removed_at IS NULL
  AND CASE WHEN :method_id::uuid IS NULL THEN is_default ELSE id = :method_id END;

-- name: list_methods(user_id, before, page_size)
SELECT * FROM payment_methods
WHERE user_id = :user_id AND removed_at IS NULL AND (:before::uuid IS NULL OR id < :before)
ORDER BY id DESC LIMIT :page_size;

-- name: remove_method(user_id, method_id)$
UPDATE payment_methods SET removed_at = now(), is_default = false
WHERE id = :method_id AND user_id = :user_id AND removed_at IS NULL RETURNING id;

-- name: get_sealed_method(method_id)^
SELECT user_id, sealed_token, removed_at FROM payment_methods WHERE id = :method_id;

-- name: forget_method(method_id)!
DELETE FROM payment_methods WHERE id = :method_id AND removed_at IS NOT NULL;

-- name: list_sealed_methods(after, count)
SELECT id, user_id, sealed_token FROM payment_methods
WHERE :after::uuid IS NULL OR id > :after ORDER BY id LIMIT :count;

-- name: reseal_method(method_id, before, sealed_token)!
UPDATE payment_methods SET sealed_token = :sealed_token WHERE id = :method_id AND sealed_token = :before;

-- -- purchases ---------------------------------------------------------------------------------------------------------

-- name: lock_course_for_sale(course_id, viewer_id, viewer_role)^
-- With what speaks against buying it; nobody archives it or changes its price before the transaction ends. What is
-- disputed or bought is not forgotten, wherever the course went since.
SELECT
    c.id, c.title, c.price, c.currency, c.is_free, c.status,
    :viewer_role::text = 'admin' OR c.creator_id = :viewer_id AS is_entitled,
    EXISTS (SELECT 1 FROM enrollments AS e
            WHERE e.user_id = :viewer_id AND e.course_id = c.id AND e.is_active
              AND (e.expires_at IS NULL OR e.expires_at > now())) AS is_enrolled,
    purchase_of(:viewer_id, c.id) IS NOT NULL AS is_bought,
    EXISTS (SELECT 1 FROM transactions AS t JOIN disputes AS d ON d.transaction_id = t.id
            WHERE t.user_id = :viewer_id AND t.course_id = c.id AND d.status = 'open') AS is_disputed
FROM courses AS c
WHERE c.id = :course_id AND may_see(:viewer_id, :viewer_role, c.id, c.status)
FOR SHARE OF c;

-- name: get_open_purchase(user_id, course_id)$
SELECT id FROM transactions
WHERE user_id = :user_id AND course_id = :course_id AND status IN ('pending', 'requires_action');

-- name: get_purchase_by_key(user_id, course_id, idempotency_key, ttl_s)^
-- What the same request made before it was cut off.
SELECT * FROM transactions
WHERE user_id = :user_id AND idempotency_key = :idempotency_key AND course_id = :course_id
  AND created_at > now() - make_interval(secs => :ttl_s)
ORDER BY id DESC LIMIT 1;

-- name: insert_purchase(user_id, course_id, amount, currency, payment_method_id, idempotency_key)^
-- None when another one is open.
INSERT INTO transactions (user_id, course_id, amount, currency, payment_method_id, idempotency_key)
VALUES (:user_id, :course_id, :amount, :currency, :payment_method_id, :idempotency_key)
ON CONFLICT (user_id, course_id) WHERE status IN ('pending', 'requires_action') AND course_id IS NOT NULL DO NOTHING
RETURNING *;

-- name: withdraw_purchase(transaction_id)!
-- The same request may begin it anew.
UPDATE transactions SET canceled_at = now(), idempotency_key = NULL
WHERE id = :transaction_id AND transaction_reference IS NULL AND status = 'pending';

-- name: get_transaction(transaction_id)^
-- With whether its user has left.
SELECT t.*, EXISTS (SELECT 1 FROM users AS u WHERE u.id = t.user_id AND u.erased_at IS NOT NULL) AS has_left
FROM transactions AS t WHERE t.id = :transaction_id;

-- name: lock_transaction(transaction_id)^
SELECT t.*, c.stripe_id || c.former AS customers
FROM transactions AS t LEFT JOIN customers AS c ON c.user_id = t.user_id
WHERE t.id = :transaction_id FOR NO KEY UPDATE OF t;

-- name: find_transaction(transaction_reference)$
SELECT id FROM transactions WHERE transaction_reference = :transaction_reference;

-- name: is_subscriber(stripe_id)$
SELECT EXISTS (SELECT 1 FROM customers AS c JOIN subscriptions AS s ON s.user_id = c.user_id WHERE :stripe_id = ANY (c.stripe_id || c.former));

-- name: get_own_transaction(transaction_id, user_id)^
SELECT * FROM transactions WHERE id = :transaction_id AND user_id = :user_id;

-- name: list_transactions(user_id, before, page_size)
SELECT * FROM transactions
WHERE user_id = :user_id AND (:before::uuid IS NULL OR id < :before)
ORDER BY id DESC LIMIT :page_size;

-- name: note_payment(transaction_id, transaction_reference, needs_action, has_succeeded, has_failed, is_canceled, failure_code)^
-- What is told of a payment. Facts only rise, and the status follows from them.
UPDATE transactions SET
    transaction_reference = coalesce(transaction_reference, :transaction_reference),
    needs_action = needs_action OR :needs_action,
    succeeded_at = CASE WHEN :has_succeeded THEN coalesce(succeeded_at, clock_timestamp()) ELSE succeeded_at END,
    failed_at = CASE WHEN :has_failed THEN coalesce(failed_at, now()) ELSE failed_at END,
    canceled_at = CASE WHEN :is_canceled THEN coalesce(canceled_at, now()) ELSE canceled_at END,
    failure_code = coalesce(:failure_code, failure_code)
WHERE id = :transaction_id RETURNING *;

-- name: get_enrollment(user_id, course_id)^
SELECT * FROM shown_enrollments WHERE user_id = :user_id AND course_id = :course_id;

-- -- refunds -----------------------------------------------------------------------------------------------------------

-- name: lock_refundable(transaction_id, viewer_id, viewer_role)$
-- One's own, or any to an admin.
SELECT id FROM transactions
WHERE id = :transaction_id AND (user_id = :viewer_id OR :viewer_role::text = 'admin')
FOR NO KEY UPDATE;

-- name: get_refundable(transaction_id)^
-- With what of it is left to be given back, which is known under the lock alone, and how much was watched for it.
SELECT
    t.*,
    greatest(0.00, t.amount - (SELECT coalesce(sum(r.amount), 0) FROM refunds AS r
                               WHERE r.transaction_id = t.id AND r.status <> 'failed')) AS amount_left,
    extract(epoch FROM now() - t.succeeded_at)::double precision AS paid_for_s,
    watched_share_of(t) AS watched_share
FROM transactions AS t WHERE t.id = :transaction_id;

-- name: get_refund_by_key(transaction_id, requested_by, idempotency_key, ttl_s)^
-- What the same request made before it was cut off. One that failed has failed: the request begins another.
SELECT * FROM refunds
WHERE transaction_id = :transaction_id AND requested_by = :requested_by AND idempotency_key = :idempotency_key
  AND status <> 'failed' AND created_at > now() - make_interval(secs => :ttl_s)
ORDER BY id DESC LIMIT 1;

-- name: insert_refund(transaction_id, amount, reason, requested_by, idempotency_key)^
INSERT INTO refunds (transaction_id, amount, reason, requested_by, idempotency_key)
VALUES (:transaction_id, :amount, :reason, :requested_by, :idempotency_key) RETURNING *;

-- name: get_refund(refund_id)^
SELECT
    r.*, t.currency, t.transaction_reference, t.user_id,
    extract(epoch FROM clock_timestamp() - r.created_at)::double precision AS age_s,
    is_paid(t.status) AND (was_left_before(t) OR EXISTS (
        SELECT 1 FROM transactions AS o
        WHERE o.user_id = t.user_id AND o.course_id = t.course_id AND o.id <> t.id AND is_paid(o.status))) AS is_owed
FROM refunds AS r JOIN transactions AS t ON t.id = r.transaction_id WHERE r.id = :refund_id;

-- name: note_refund(refund_id, stripe_id, status)!
-- What is told of a refund that we asked for; it never goes back.
UPDATE refunds SET
    stripe_id = coalesce(stripe_id, :stripe_id),
    status = CASE WHEN refund_rank(:status) > refund_rank(status) THEN :status ELSE status END
WHERE id = :refund_id;

-- name: drop_refund(refund_id)!
-- One that shall not be done, unless it was.
UPDATE refunds SET status = 'failed' WHERE id = :refund_id AND status = 'requested';

-- name: note_foreign_refund(transaction_id, stripe_id, amount, status)!
-- One that somebody made at Stripe, or one of ours that is known there already.
INSERT INTO refunds AS kept (transaction_id, stripe_id, amount, status, reason)
VALUES (:transaction_id, :stripe_id, :amount, :status, 'made at Stripe')
ON CONFLICT (stripe_id) DO UPDATE SET status = excluded.status
WHERE refund_rank(excluded.status) > refund_rank(kept.status) AND kept.transaction_id = excluded.transaction_id;

-- name: get_own_refund(refund_id, transaction_id)$
SELECT id FROM refunds WHERE id = :refund_id AND transaction_id = :transaction_id;

-- -- disputes ----------------------------------------------------------------------------------------------------------

-- name: note_dispute(transaction_id, stripe_id, status, amount, reason)$
-- Whether this is the first that is heard of it.
INSERT INTO disputes AS kept (transaction_id, stripe_id, status, amount, reason)
VALUES (:transaction_id, :stripe_id, :status, :amount, :reason)
ON CONFLICT (stripe_id) DO UPDATE SET
    status = CASE WHEN dispute_rank(excluded.status) > dispute_rank(kept.status) THEN excluded.status ELSE kept.status END
RETURNING xmax = 0;

-- name: get_dispute(stripe_id)^
SELECT * FROM disputes WHERE stripe_id = :stripe_id;

-- -- events ------------------------------------------------------------------------------------------------------------

-- name: insert_event(event_id, type, facts)$
-- Nothing when it was told before; who tells it at the same moment waits here.
INSERT INTO webhook_events (id, type, status, facts) VALUES (:event_id, :type, 'done', :facts)
ON CONFLICT (id) DO NOTHING RETURNING id;

-- name: get_dead_event(event_id)^
SELECT type, facts FROM webhook_events WHERE id = :event_id AND status = 'dead';

-- name: lock_dead_event(event_id)^
SELECT * FROM webhook_events WHERE id = :event_id AND status = 'dead' FOR UPDATE;

-- name: end_event(event_id, status, reason)!
UPDATE webhook_events SET status = :status, reason = :reason WHERE id = :event_id;

-- name: list_dead_events(before_at, before_id, count)
SELECT id, type, reason, facts, created_at, updated_at FROM webhook_events
WHERE status = 'dead' AND (:before_at::timestamptz IS NULL OR (created_at, id) < (:before_at, :before_id::text))
ORDER BY created_at DESC, id DESC LIMIT :count;

-- name: known_events(event_ids)$
-- Which of these were told already, whatever became of them.
SELECT coalesce(array_agg(id), '{}') FROM webhook_events WHERE id = ANY (:event_ids::text[]);

-- name: take_walk(pause_s)^
-- For one process at a time, or rather none too often: nothing when it was somebody's turn just now, or when nobody was
-- ever to pay. What happened before the first of them is none of ours.
UPDATE event_walk SET
    asked_at = clock_timestamp(),
    since = coalesce(since, (SELECT floor(extract(epoch FROM min(created_at))) FROM customers))
WHERE asked_at <= clock_timestamp() - make_interval(secs => :pause_s) AND EXISTS (SELECT 1 FROM customers)
RETURNING since, reached, after;

-- name: move_walk(was_since, was_after, since, reached, after)^
-- Nothing when it is no longer where it was left: another went on, as that one took longer than a turn.
UPDATE event_walk SET since = :since, reached = :reached, after = :after, asked_at = clock_timestamp()
WHERE since = :was_since AND after IS NOT DISTINCT FROM :was_after RETURNING since, reached, after;

-- name: sweep_events(keep_days, most)!
DELETE FROM webhook_events WHERE id = ANY (ARRAY(
    SELECT id FROM webhook_events WHERE status = 'done' AND created_at < now() - make_interval(days => :keep_days)
    ORDER BY created_at LIMIT :most FOR UPDATE SKIP LOCKED));
