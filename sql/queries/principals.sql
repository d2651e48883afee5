-- What the HTTP floor itself asks about users.

-- name: get_user_version(user_id)$
SELECT ver FROM users WHERE id = :user_id;

-- name: list_changed_versions(within_s)
-- Who was changed in this time and has another version than a new user.
SELECT id, ver FROM users
WHERE updated_at > now() - make_interval(secs => :within_s) AND ver > 1;

-- name: insert_first_admin(username, email, password_hash)<!
-- Nothing when the address or every name that was tried is taken.
INSERT INTO users (username, email, password_hash, role, email_verified)
VALUES (:username, :email, :password_hash, 'admin', true)
ON CONFLICT DO NOTHING
RETURNING id, username;

-- name: has_user_with_email(email)$
SELECT EXISTS (SELECT 1 FROM users WHERE name_key(email) = name_key(:email));
