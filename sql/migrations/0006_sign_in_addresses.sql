-- Where an account was signed in to: a flood of wrong passwords from elsewhere does not lock these out. An IPv4 address,
-- or the /64 of an IPv6 one.
CREATE TABLE sign_in_addresses (
    user_id uuid NOT NULL REFERENCES users ON DELETE CASCADE,
    network cidr NOT NULL,
    seen_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (user_id, network)
);
