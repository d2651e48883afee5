-- name: get_recipient(user_id)^
SELECT id, username, email, email_verified FROM users WHERE id = :user_id AND erased_at IS NULL;

-- name: find_recipient(email)^
SELECT id, username, email, email_verified FROM users WHERE name_key(email) = name_key(:email) AND erased_at IS NULL;

-- name: lock_recipient(user_id)^
-- None for who left meanwhile, of whom nothing is kept any more.
SELECT id, username, email FROM users WHERE id = :user_id AND erased_at IS NULL FOR NO KEY UPDATE;

-- name: insert_token(user_id, purpose, email, token_hash, ttl_s, most)<!
-- None when the user has `most` of this purpose at this address already, or when this one is good no more. The same one
-- again stays as it is. What is out of date goes.
WITH swept AS (
    DELETE FROM mail_tokens WHERE user_id = :user_id AND expires_at <= now() AND token_hash <> :token_hash
)
INSERT INTO mail_tokens (user_id, purpose, email, token_hash, expires_at)
SELECT :user_id, :purpose, :email, :token_hash, now() + make_interval(secs => :ttl_s)
WHERE (
    SELECT count(*) FROM mail_tokens
    WHERE user_id = :user_id AND purpose = :purpose AND name_key(email) = name_key(:email) AND expires_at > now()
      AND used_at IS NULL AND token_hash <> :token_hash) < :most
ON CONFLICT (token_hash) DO UPDATE SET token_hash = excluded.token_hash WHERE mail_tokens.used_at IS NULL
RETURNING id;

-- name: find_token(token_hash, purpose)^
-- Of a user who still has the address that the mail went to.
SELECT t.user_id FROM mail_tokens AS t JOIN users AS u ON u.id = t.user_id
WHERE t.token_hash = :token_hash AND t.purpose = :purpose AND t.expires_at > now() AND t.used_at IS NULL
  AND name_key(u.email) = name_key(t.email) AND u.erased_at IS NULL;

-- name: spend_token(token_hash, purpose)^
-- Of several at once one gets it; the user is locked first, for a link that is used ends the others.
WITH u AS (
    SELECT id, email FROM users
    WHERE id = (SELECT user_id FROM mail_tokens WHERE token_hash = :token_hash) AND erased_at IS NULL FOR NO KEY UPDATE
)
UPDATE mail_tokens AS t SET used_at = now() FROM u
WHERE t.token_hash = :token_hash AND t.purpose = :purpose AND t.expires_at > now() AND t.used_at IS NULL
  AND u.id = t.user_id AND name_key(u.email) = name_key(t.email)
RETURNING t.user_id, t.email;

-- name: verify_email(user_id, email)!
-- Not one that took its place in this very moment.
UPDATE users SET email_verified = true WHERE id = :user_id AND name_key(email) = name_key(:email);

-- name: reset_password(user_id, password_hash)^
-- Whoever reads the mail of the address has it.
UPDATE users SET password_hash = :password_hash, ver = ver + 1, email_verified = true WHERE id = :user_id RETURNING *;

-- name: end_tokens(user_id, purpose)!
-- All purposes when that is NULL.
UPDATE mail_tokens SET used_at = now()
WHERE user_id = :user_id AND used_at IS NULL AND (:purpose::text IS NULL OR purpose = :purpose);
