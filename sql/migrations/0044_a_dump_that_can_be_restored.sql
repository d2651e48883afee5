-- As before (0043_found_and_seen.sql), but that what it calls is settled here, once, and not looked up when it is called: a
-- dump is restored with no schema to look in, so that tables whose words are generated could not be made again.
CREATE OR REPLACE FUNCTION words_of(given text) RETURNS tsvector LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN to_tsvector('simple'::regconfig, folded(given)) || to_tsvector('english'::regconfig, folded(given))
    || to_tsvector('simple'::regconfig, translate(
        regexp_replace(folded(given), '(^|\s)[^\s./]+[./]*(?=\s|$)', ' ', 'g'), './', '  '));
