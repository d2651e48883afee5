-- What an operator does at the command line.

-- name: insert_admin(username, email, password_hash)<!
-- Nothing when name or address is taken.
INSERT INTO users (username, email, password_hash, role, email_verified)
VALUES (:username, :email, :password_hash, 'admin', true) ON CONFLICT DO NOTHING RETURNING id;

-- name: set_password(user_id, password_hash)!
UPDATE users SET password_hash = :password_hash, ver = ver + 1 WHERE id = :user_id;

-- name: raise_version(user_id)!
UPDATE users SET ver = ver + 1 WHERE id = :user_id;
