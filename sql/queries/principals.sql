-- What the HTTP floor itself asks about users.

-- name: get_user_version(user_id)$
SELECT ver FROM users WHERE id = :user_id;

-- name: list_revoked(ids, versions)
-- Of tokens' users, paired with the versions that the tokens carry, those that have another version now, or are gone.
SELECT held.id FROM unnest(:ids::uuid[], :versions::int[]) AS held (id, ver)
LEFT JOIN users AS u ON u.id = held.id
WHERE u.ver IS DISTINCT FROM held.ver;

-- name: insert_first_admin(username, email, password_hash)<!
-- Nothing when the address or every name that was tried is taken.
INSERT INTO users (username, email, password_hash, role, email_verified)
VALUES (:username, :email, :password_hash, 'admin', true)
ON CONFLICT DO NOTHING
RETURNING id, username;

-- name: has_user_with_email(email)$
SELECT EXISTS (SELECT 1 FROM users WHERE name_key(email) = name_key(:email));
