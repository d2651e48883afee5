-- Files: materials of courses, pictures of users and courses. Their bytes are in the object store, under
-- `public/<id>/` or `private/<id>/`; a row here is what there is to know of them.

CREATE TABLE files (
    id uuid PRIMARY KEY DEFAULT uuidv7(),
    owner_id uuid NOT NULL REFERENCES users ON DELETE RESTRICT,
    course_id uuid REFERENCES courses ON DELETE CASCADE,
    lecture_id uuid REFERENCES lectures ON DELETE CASCADE,
    filename text NOT NULL CONSTRAINT files_filename_length CHECK (length(filename) BETWEEN 1 AND 255),
    size_bytes bigint NOT NULL CONSTRAINT files_size_bytes CHECK (size_bytes >= 1),
    content_type text NOT NULL,
    purpose text NOT NULL CONSTRAINT files_purpose CHECK (purpose IN ('material', 'avatar', 'thumbnail')),
    visibility text NOT NULL CONSTRAINT files_visibility CHECK (visibility IN ('private', 'course', 'public')),
    -- `pending`: its bytes are still arriving at the store, or have not been checked.
    status text NOT NULL DEFAULT 'pending' CONSTRAINT files_status CHECK (status IN ('pending', 'ready')),
    -- Of pictures, as they are shown; NULL until they are known.
    width integer CONSTRAINT files_width CHECK (width >= 1),
    height integer CONSTRAINT files_height CHECK (height >= 1),
    -- [{"size", "width", "height"}], smallest first; `size` is what they are asked for by.
    thumbnails jsonb NOT NULL DEFAULT '[]',
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT files_visibility_course CHECK (visibility <> 'course' OR course_id IS NOT NULL),
    CONSTRAINT files_lecture_course CHECK (lecture_id IS NULL OR course_id IS NOT NULL)
);
-- With what a quota adds up.
CREATE INDEX files_owner_id_idx ON files (owner_id, id DESC) INCLUDE (size_bytes);
CREATE INDEX files_course_id_idx ON files (course_id, id DESC);
CREATE INDEX files_lecture_id_idx ON files (lecture_id);
CREATE TRIGGER set_updated_at BEFORE UPDATE ON files FOR EACH ROW EXECUTE FUNCTION set_updated_at();

-- An upload whose bytes go straight to the store, in parts. It outlives its completion for as long as it would have been
-- good, so that completing twice is told as once.
CREATE TABLE file_uploads (
    id uuid PRIMARY KEY DEFAULT uuidv7(),
    file_id uuid NOT NULL CONSTRAINT file_uploads_file_id_key UNIQUE REFERENCES files ON DELETE CASCADE,
    store_upload_id text NOT NULL,
    part_size bigint NOT NULL CONSTRAINT file_uploads_part_size CHECK (part_size >= 1),
    expires_at timestamptz NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX file_uploads_expires_at_idx ON file_uploads (expires_at);
CREATE TRIGGER set_updated_at BEFORE UPDATE ON file_uploads FOR EACH ROW EXECUTE FUNCTION set_updated_at();

-- However a file goes, by itself or with its lecture, course or owner, the store is told for as long as it takes.
CREATE FUNCTION note_removed_file() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO jobs (kind, payload)
    VALUES ('remove_file', jsonb_build_object('file_id', OLD.id, 'visibility', OLD.visibility));
    RETURN NULL;
END $$;
CREATE TRIGGER note_removed_file AFTER DELETE ON files FOR EACH ROW EXECUTE FUNCTION note_removed_file();

-- The one rule of who may read a file. What is not ready is its owner's business; those who run the course (who alone
-- can put files into it) see all that is in it.
CREATE FUNCTION may_read_file(viewer uuid, viewer_role text, f files) RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT coalesce(viewer_role = 'admin' OR f.owner_id = viewer, false)
        OR (f.status = 'ready' AND f.visibility = 'public')
        OR EXISTS (SELECT 1 FROM courses WHERE id = f.course_id AND creator_id = viewer)
        OR (f.status = 'ready' AND f.visibility = 'course' AND entitled(viewer, viewer_role, f.course_id))
$$;

-- Who may take it away: whoever put it there, who runs the course, administrators.
CREATE FUNCTION may_remove_file(viewer uuid, viewer_role text, f files) RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT coalesce(viewer_role = 'admin' OR f.owner_id = viewer, false)
        OR EXISTS (SELECT 1 FROM courses WHERE id = f.course_id AND creator_id = viewer)
$$;

-- What one may show as oneself, or as one's course: one's own picture, that everybody may see, and of which there are
-- small ones (so that it was decoded once).
CREATE FUNCTION may_show_picture(viewer uuid, file uuid) RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT EXISTS (SELECT 1 FROM files
                   WHERE id = file AND owner_id = viewer AND status = 'ready' AND visibility = 'public'
                     AND thumbnails <> '[]')
$$;

-- -- pictures of users and courses ---------------------------------------------------------------------------------
-- The address follows the file: set with it, gone with it.

CREATE FUNCTION picture_url(file uuid, size integer) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT '/api/files/public/' || file || '?size=' || size
$$;

ALTER TABLE users ADD COLUMN avatar_file_id uuid REFERENCES files ON DELETE SET NULL;
CREATE INDEX users_avatar_file_id_idx ON users (avatar_file_id);
CREATE FUNCTION show_avatar() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.avatar_file_id IS DISTINCT FROM OLD.avatar_file_id THEN
        NEW.avatar_url := picture_url(NEW.avatar_file_id, 160);
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER show_avatar BEFORE UPDATE OF avatar_file_id ON users FOR EACH ROW EXECUTE FUNCTION show_avatar();

ALTER TABLE courses ADD COLUMN thumbnail_file_id uuid REFERENCES files ON DELETE SET NULL;
CREATE INDEX courses_thumbnail_file_id_idx ON courses (thumbnail_file_id);
CREATE FUNCTION show_course_thumbnail() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.thumbnail_file_id IS DISTINCT FROM OLD.thumbnail_file_id
       AND (NEW.thumbnail_file_id IS NOT NULL OR NEW.thumbnail_url = picture_url(OLD.thumbnail_file_id, 640)) THEN
        NEW.thumbnail_url := picture_url(NEW.thumbnail_file_id, 640);
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER show_course_thumbnail BEFORE UPDATE OF thumbnail_file_id ON courses
    FOR EACH ROW EXECUTE FUNCTION show_course_thumbnail();
