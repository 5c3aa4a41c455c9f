//! The bearer token.

use std::fmt;
use std::io::Read;
use std::path::Path;

/// Longer files are not tokens.
const MAX_LENGTH: u64 = 4096;

/// A secret that clients on TCP must show. Never printed.
#[derive(Clone)]
pub struct Token(String);

impl Token {
    /// Reads a token file; white space around the token does not count.
    ///
    /// # Errors
    /// Says why the file cannot be read or holds no usable token.
    pub fn read(path: &Path) -> Result<Self, String> {
        let mut text = String::new();
        std::fs::File::open(path)
            .and_then(|file| file.take(MAX_LENGTH + 1).read_to_string(&mut text))
            .map_err(|error| format!("cannot read the token file {}: {error}", path.display()))?;
        Self::new(&text).map_err(|flaw| format!("the token file {} {flaw}", path.display()))
    }

    /// A token from its text.
    ///
    /// # Errors
    /// Says what is wrong with it, without the text.
    pub fn new(text: &str) -> Result<Self, &'static str> {
        let token = text.trim();
        if token.is_empty() {
            return Err("is empty: put a long random word into it");
        }
        if token.len() as u64 > MAX_LENGTH {
            return Err("is longer than 4096 characters");
        }
        if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("holds more than one word of printable ASCII characters");
        }
        Ok(Self(token.to_owned()))
    }

    /// Whether `shown` is the token, in a time that tells nothing but the length.
    #[must_use]
    pub fn matches(&self, shown: &[u8]) -> bool {
        let own = self.0.as_bytes();
        let difference = own
            .iter()
            .zip(shown)
            .fold(0, |difference, (a, b)| difference | (a ^ b));
        own.len() == shown.len() && std::hint::black_box(difference) == 0
    }

    /// The value of an `Authorization` header.
    pub(crate) fn authorization(&self) -> String {
        format!("Bearer {}", self.0)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_token_matches() {
        let token = Token::new(" secret\n").unwrap();
        assert!(token.matches(b"secret"));
        for other in [&b""[..], b"secre", b"secret1", b"Secret"] {
            assert!(!token.matches(other));
        }
        assert_eq!(format!("{token:?}"), "Token(…)");
        assert!(Token::new(" \n").is_err() && Token::new("two words").is_err() && Token::new("é").is_err());
    }
}
