-- By which model a piece was embedded: vectors of two models say nothing of each other, even where they are of one length.
-- Those of before have no name beside them, are compared with nothing, and are made anew.
ALTER TABLE transcript_chunks ADD COLUMN embedded_by text;
ALTER TABLE text_pieces ADD COLUMN embedded_by text;
-- What the present model has not embedded is found at every start.
DROP INDEX transcript_chunks_unembedded_idx, text_pieces_unembedded_idx;
CREATE INDEX transcript_chunks_embedded_by_idx ON transcript_chunks (embedded_by, video_id);
CREATE INDEX text_pieces_embedded_by_idx ON text_pieces (embedded_by, source_id);
