-- name: insert_user(username, email, password_hash)^
INSERT INTO users (username, email, password_hash) VALUES (:username, :email, :password_hash) RETURNING *;

-- name: find_user_by_login(login, network, known_days)^
-- A user name never holds an @, so that a login is one or the other.
SELECT u.*, EXISTS (
    SELECT FROM sign_in_addresses AS a
    WHERE a.user_id = u.id AND a.network = :network::text::cidr AND a.seen_at > now() - make_interval(days => :known_days)
) AS known_here
FROM users AS u
WHERE (name_key(u.username) = name_key(:login) OR name_key(u.email) = name_key(:login)) AND u.erased_at IS NULL;

-- name: lock_verified_user(user_id, password_hash)^
-- None when the password was changed while it was being checked.
SELECT * FROM users WHERE id = :user_id AND password_hash = :password_hash AND erased_at IS NULL
FOR NO KEY UPDATE;

-- name: remember_address(user_id, network, known_days)!
-- What is out of date goes on the way.
WITH swept AS (
    DELETE FROM sign_in_addresses
    WHERE user_id = :user_id AND network <> :network::text::cidr AND seen_at < now() - make_interval(days => :known_days)
)
INSERT INTO sign_in_addresses (user_id, network) VALUES (:user_id, :network::text::cidr)
ON CONFLICT (user_id, network) DO UPDATE SET seen_at = now();

-- name: insert_refresh_token(user_id, family_id, token_hash, ttl_s)!
-- What is out of date goes on the way: nobody can use it.
WITH swept AS (
    DELETE FROM refresh_tokens WHERE id IN (
        SELECT t.id FROM refresh_tokens AS t WHERE t.user_id = :user_id AND t.expires_at < now() FOR UPDATE SKIP LOCKED)
)
INSERT INTO refresh_tokens (user_id, family_id, token_hash, expires_at)
VALUES (:user_id, :family_id, :token_hash, clock_timestamp() + make_interval(secs => :ttl_s));

-- name: lock_token_owner(token_hash)^
-- One at a time per user: a family cannot end while one of its tokens is being rotated.
SELECT u.* FROM users AS u
WHERE u.id = (SELECT t.user_id FROM refresh_tokens AS t WHERE t.token_hash = :token_hash)
FOR NO KEY UPDATE;

-- name: get_refresh_token(token_hash)^
-- `used_ago_s` is NULL for a token that is still good.
SELECT
    family_id,
    expires_at <= clock_timestamp() AS is_expired,
    extract(epoch FROM clock_timestamp() - used_at)::double precision AS used_ago_s
FROM refresh_tokens WHERE token_hash = :token_hash;

-- name: spend_refresh_token(token_hash)!
UPDATE refresh_tokens SET used_at = clock_timestamp() WHERE token_hash = :token_hash;

-- name: end_token_family(family_id)!
-- All of the family count as used long ago: whoever brings one learns why it is no longer good.
UPDATE refresh_tokens SET used_at = '1970-01-01Z' WHERE family_id = :family_id;

-- name: delete_token_family(token_hash)!
DELETE FROM refresh_tokens
WHERE family_id = (SELECT t.family_id FROM refresh_tokens AS t WHERE t.token_hash = :token_hash);
