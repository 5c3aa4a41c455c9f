//! The search for `expected_body` in the beginning of an answer.

/// How much of a body is looked at.
pub(super) const LIMIT: usize = 10 * 1024;

/// Looks for a text, in any case, in the first [`LIMIT`] bytes of a body that comes in pieces.
pub(super) struct Search {
    wanted: String,
    seen: Vec<u8>,
}

impl Search {
    pub(super) fn new(wanted: &str) -> Self {
        Self {
            wanted: wanted.to_lowercase(),
            seen: Vec::new(),
        }
    }

    /// Takes the next piece. True when the text has been found, so that an answer that never ends need not be waited
    /// for.
    pub(super) fn feed(&mut self, piece: &[u8]) -> bool {
        let wanted = self.wanted.as_bytes();
        let from = self.seen.len().saturating_sub(wanted.len());
        let room = LIMIT - self.seen.len();
        self.seen
            .extend(piece.iter().take(room).map(u8::to_ascii_lowercase));
        wanted.is_empty()
            || self.seen[from..]
                .windows(wanted.len())
                .any(|window| window == wanted)
    }

    /// Whether nothing further will be looked at.
    pub(super) fn is_full(&self) -> bool {
        self.seen.len() == LIMIT
    }

    /// Whether the text occurs in everything that came, letters outside ASCII in any case too.
    pub(super) fn finish(&self) -> bool {
        String::from_utf8_lossy(&self.seen)
            .to_lowercase()
            .contains(&self.wanted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(wanted: &str, pieces: &[&[u8]], found: bool) {
        let mut search = Search::new(wanted);
        let fed = pieces.iter().any(|piece| search.feed(piece));
        assert_eq!(fed || search.finish(), found, "{wanted:?}");
    }

    #[test]
    fn text_is_found_in_any_case_and_across_pieces() {
        check("Alive", &[b"i am aLIVE"], true);
        check("alive", &[b"al", b"i", b"ve"], true);
        check("alive", &[b"al", b"ive", b"!"], true);
        check("alive", &[b"dead"], false);
        check("", &[], true);
        check("ÄRGER", &["kein ärger".as_bytes()], true);
        check("alive", &[&[0xff, 0xfe], b"ALIVE"], true);
    }

    #[test]
    fn only_the_first_ten_kibibytes_count() {
        let padding = vec![b' '; LIMIT - 5];
        check("alive", &[&padding, b"alive"], true);
        check("alive", &[&padding, b" alive"], false);
        let mut search = Search::new("x");
        assert!(!search.feed(&vec![b' '; 3 * LIMIT]));
        assert!(search.is_full());
    }
}
