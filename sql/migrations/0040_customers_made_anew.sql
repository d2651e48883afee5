-- Somebody at Stripe may delete a customer: then another one is made, and what the former ones paid is theirs still.
ALTER TABLE customers ADD COLUMN former text[] NOT NULL DEFAULT '{}';
