-- Captions as the video host gave them, so that who reads them asks us and not the host, whose account has a quota for all.
-- `version` is `videos.captions_version` as it was before the host was asked: what is of another one is not given out.
CREATE TABLE captions (
    video_id uuid NOT NULL REFERENCES videos ON DELETE CASCADE,
    lang text NOT NULL,
    version integer NOT NULL,
    vtt bytea NOT NULL,
    asked_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (video_id, lang)
);
-- What languages there are: who asks for others, and there is no end of others, asks the host neither.
CREATE TABLE caption_languages (
    video_id uuid PRIMARY KEY REFERENCES videos ON DELETE CASCADE,
    version integer NOT NULL,
    langs text[] NOT NULL,
    asked_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
