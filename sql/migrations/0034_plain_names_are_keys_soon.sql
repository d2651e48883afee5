-- Administrators look for users by a part of a name or address, which looks at the keys of all of them.

-- As before (0003_accounts.sql), with the same keys: most names are ASCII, of which folding case is all that there is to do,
-- and Unicode's normal forms take fifty times as long to say so. Not STRICT: with a CASE it would not be inlined.
CREATE OR REPLACE FUNCTION name_key(name text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE
        WHEN octet_length(name) = length(name) THEN lower(name COLLATE pg_unicode_fast)
        ELSE normalize(casefold(normalize(name, NFKC) COLLATE pg_unicode_fast), NFKC)
    END
$$;
