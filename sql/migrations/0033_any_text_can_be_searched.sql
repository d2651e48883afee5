-- Whatever people write is read in time, and whatever they look for can be.

-- As before (0004_courses_and_rights.sql), but that a piece of text without blanks holds no more than twenty-four signs that
-- may join something: at each of them Postgres' parser looks for an address, a host's name, a path or a number, and reads on
-- to the piece's end, so that twenty thousand characters of `a_a_a_a` took it half a minute.
CREATE OR REPLACE FUNCTION folded(given text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE STRICT AS $$
    SELECT regexp_replace(
        lower(normalize(regexp_replace(normalize(given, NFKD), '[\u0300-\u036f]', '', 'g'), NFKC) COLLATE pg_c_utf8),
        '([-+_@./:][^-+_@./:\s]*){24}', '\& ', 'g')
$$;

-- A dash excludes what stands right behind it. Any other says nothing: Postgres takes each for a negation of the next, and
-- refuses to nest more than some thirty of them, as in a line of dashes.
CREATE FUNCTION asked_for(typed text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE STRICT AS $$
    SELECT regexp_replace(folded(typed), '-(?![^\s!&|()<-])', ' ', 'g')
$$;

CREATE OR REPLACE FUNCTION wanted_words(typed text) RETURNS tsquery LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT websearch_to_tsquery('simple', asked_for(typed)) || websearch_to_tsquery('english', asked_for(typed))
$$;
