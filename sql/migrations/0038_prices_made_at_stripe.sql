-- Somebody at Stripe may let a subscription cost less than anything that is sold, or nothing.
ALTER TABLE subscriptions
    DROP CONSTRAINT subscriptions_price,
    ADD CONSTRAINT subscriptions_price CHECK (price BETWEEN 0 AND 999999.99);
