-- name: lock_key(user_id, key)$
-- Whether nobody else is at this key now; held until the end of the transaction.
SELECT pg_try_advisory_xact_lock(hashtextextended(:user_id::uuid::text || ' ' || :key::text, 0));

-- name: get_key(user_id, key)^
SELECT request_hash, status, headers, body, coalesce(running_until > now(), false) AS is_running
FROM idempotency_keys
WHERE user_id = :user_id AND key = :key AND expires_at > now();

-- name: start_key(user_id, key, request_hash, lease_s, ttl_s)!
INSERT INTO idempotency_keys (user_id, key, request_hash, running_until, expires_at)
VALUES (:user_id, :key, :request_hash, now() + make_interval(secs => :lease_s),
        now() + make_interval(secs => :ttl_s))
ON CONFLICT (user_id, key) DO UPDATE
SET request_hash = excluded.request_hash, running_until = excluded.running_until, status = NULL, headers = NULL,
    body = NULL, expires_at = excluded.expires_at;

-- name: renew_key(user_id, key, lease_s)!
-- Nothing once the lease is over: then the key may be another's.
UPDATE idempotency_keys SET running_until = now() + make_interval(secs => :lease_s)
WHERE user_id = :user_id AND key = :key AND status IS NULL AND running_until > now();

-- name: keep_answer(user_id, key, request_hash, status, headers, body, ttl_s)!
INSERT INTO idempotency_keys (user_id, key, request_hash, status, headers, body, expires_at)
VALUES (:user_id, :key, :request_hash, :status, :headers, :body, now() + make_interval(secs => :ttl_s))
ON CONFLICT (user_id, key) DO UPDATE
SET request_hash = excluded.request_hash, running_until = NULL, status = excluded.status,
    headers = excluded.headers, body = excluded.body, expires_at = excluded.expires_at;

-- name: release_key(user_id, key)!
-- For the same request alone: what the first has begun is found by its key.
UPDATE idempotency_keys SET running_until = now() WHERE user_id = :user_id AND key = :key AND status IS NULL;

-- name: sweep_keys(most)!
DELETE FROM idempotency_keys
WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM idempotency_keys WHERE expires_at <= now()
    ORDER BY expires_at LIMIT :most FOR UPDATE SKIP LOCKED
));
