-- What says itself when it was changed begins, too, before others that are through before it.
DROP TRIGGER set_updated_at ON video_sessions;
CREATE TRIGGER set_updated_at BEFORE UPDATE ON video_sessions FOR EACH ROW
WHEN (new.updated_at <= old.updated_at) EXECUTE FUNCTION set_updated_at();
DROP TRIGGER set_updated_at ON progress;
CREATE TRIGGER set_updated_at BEFORE UPDATE ON progress FOR EACH ROW
WHEN (new.updated_at <= old.updated_at) EXECUTE FUNCTION set_updated_at();
