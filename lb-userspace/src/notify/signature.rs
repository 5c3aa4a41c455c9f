//! The signature of what is sent: who has the secret can tell that it comes from this node, unchanged, and now.

use ring::hmac;
use std::fmt::Write as _;
use std::time::SystemTime;

/// `t=SECONDS,v1=HEX`: the time since 1970, and the HMAC-SHA256 of that number, a dot and the body.
pub(super) const HEADER: &str = "X-Lb-Signature";

pub(super) fn header(secret: &[u8], time: SystemTime, body: &[u8]) -> String {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let seconds = since.as_secs();
    let mut signing = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, secret));
    signing.update(format!("{seconds}.").as_bytes());
    signing.update(body);
    let mut text = format!("t={seconds},v1=");
    for byte in signing.sign().as_ref() {
        // Writing to a text does not fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn others_compute_the_same() {
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        // python3 -c 'import hmac; print(hmac.new(b"key", b"1700000000.{\"a\":1}", "sha256").hexdigest())'
        let expected = "t=1700000000,v1=a438e398bfafc57e4396bb7fc2304422f0f768e965d073ca313cb52e22e6ad03";
        assert_eq!(header(b"key", time, b"{\"a\":1}"), expected);
    }
}
