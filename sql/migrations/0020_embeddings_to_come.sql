-- What was kept while there was no model for embeddings is found at every start: by indexes that hold nothing else.
CREATE INDEX transcript_chunks_unembedded_idx ON transcript_chunks (video_id) WHERE embedding IS NULL;
CREATE INDEX text_pieces_unembedded_idx ON text_pieces (source_id) WHERE embedding IS NULL;
