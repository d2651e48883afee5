-- A dash excludes what stands right behind it. Any other says nothing: Postgres takes each for a negation of the next, and
-- refuses to nest more than some thirty of them, as in a line of dashes.
CREATE FUNCTION asked_for(typed text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE STRICT AS $$
    SELECT regexp_replace(folded(typed), '-(?![^\s!&|()<-])', ' ', 'g')
$$;

CREATE OR REPLACE FUNCTION wanted_words(typed text) RETURNS tsquery LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT websearch_to_tsquery('simple', asked_for(typed)) || websearch_to_tsquery('english', asked_for(typed))
$$;
