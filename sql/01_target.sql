-- What a target is. The same rules stand in src/target.ts; a test holds the two against each other.
--
-- A domain with one named constraint a rule, so that the error names the rule that was broken. The rules use
-- strpos and split_part where they can: regular expressions made a bulk INSERT a quarter slower.

CREATE DOMAIN afterdelete.target AS text COLLATE "C"
  CONSTRAINT target_at_most_4096_bytes
    CHECK (octet_length(VALUE) <= 4096)
  CONSTRAINT target_has_a_scheme
    CHECK (strpos(VALUE, '://') > 1
           AND left(VALUE, 1) BETWEEN 'a' AND 'z'
           AND translate(split_part(VALUE, '://', 1), 'abcdefghijklmnopqrstuvwxyz0123456789+.-', '') = '')
  -- claim() relies on this one: it answers with a target a line. The control characters beyond ASCII (U+0080 to U+009F) are
  -- looked for only where there is anything beyond ASCII.
  CONSTRAINT target_has_no_control_characters
    CHECK (VALUE !~ '[\x01-\x1f\x7f]'
           AND (octet_length(VALUE) = length(VALUE) OR VALUE !~ '[\u0080-\u009f]'))
  CONSTRAINT target_has_no_dot_segments
    CHECK (strpos(VALUE || '/', '/../') = 0 AND strpos(VALUE || '/', '/./') = 0)
  CONSTRAINT target_of_a_file_has_a_path
    CHECK (left(VALUE, 7) <> 'file://' OR split_part(VALUE, '/', 4) <> '')
  CONSTRAINT target_of_a_file_has_no_empty_segments
    CHECK (left(VALUE, 7) <> 'file://' OR strpos(substr(VALUE, 8), '//') = 0)
  -- The store is in an index, which takes no value of any length.
  CONSTRAINT target_has_a_store_of_at_most_512_bytes
    CHECK (octet_length(VALUE) <= 512
           OR octet_length(split_part(VALUE, '/', 1)) + octet_length(split_part(VALUE, '/', 3)) <= 510)
  CONSTRAINT target_of_an_object_has_bucket_and_key
    CHECK (left(VALUE, 7) = 'file://'
           OR (split_part(VALUE, '/', 3) <> ''
               AND length(VALUE) > length(split_part(VALUE, '/', 1)) + length(split_part(VALUE, '/', 3)) + 3));

COMMENT ON DOMAIN afterdelete.target IS
  'The literal address of what to delete: file:///data/a.bin (one file), file:///data/t1/ (the whole tree), '
  's3://bucket/key (one object), s3://bucket/prefix/ (every object under it). Compared byte by byte.';
