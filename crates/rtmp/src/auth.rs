//! Trust from the origin to the edges: a forwarder proves that it knows the cluster's secret and means this very worker.
//!
//! The `connect` of a forwarder carries the id of the worker it means and a tag, HMAC-SHA256(secret, S1 ‖ id). S1 is the fresh
//! random packet of the server's handshake, so a recorded tag is of no use.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// Bytes of the tag before it is written as hexadecimal digits.
const TAG: usize = 32;

/// What a forwarder says of itself in its `connect`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The cluster's secret.
    pub secret: Vec<u8>,
    /// Id of the worker meant.
    pub target: String,
    /// Names the clock of the times it sends, at most 256 bytes: another process has another.
    pub clock: String,
}

/// Lower-case hexadecimal HMAC-SHA256 (RFC 2104) of `s1 ‖ target` under `secret`.
pub fn tag(secret: &[u8], s1: &[u8], target: &str) -> String {
    mac(secret, s1, target).finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Whether `tag` is the one of [`tag`]; the comparison takes constant time.
pub fn verify(secret: &[u8], s1: &[u8], target: &str, tag: &str) -> bool {
    let Some(tag) = decode(tag) else { return false };
    mac(secret, s1, target).verify_slice(&tag).is_ok()
}

fn mac(secret: &[u8], s1: &[u8], target: &str) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).expect("HMAC takes a key of any length");
    mac.update(s1);
    mac.update(target.as_bytes());
    mac
}

fn decode(tag: &str) -> Option<[u8; TAG]> {
    let digits = tag.as_bytes();
    if digits.len() != 2 * TAG {
        return None;
    }
    let mut bytes = [0; TAG];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let &[high, low] = pair else { return None };
        *byte = (digit(high)? << 4) | digit(low)?;
    }
    Some(bytes)
}

fn digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tag_is_hmac_sha256_in_hexadecimal() {
        // RFC 4231, test case 2, its message cut in two.
        assert_eq!(
            tag(b"Jefe", b"what do ya want ", "for nothing?"),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
    }

    #[test]
    fn only_the_tag_of_this_secret_nonce_and_target_verifies() {
        let good = tag(b"secret", b"nonce", "edge-1");
        assert!(verify(b"secret", b"nonce", "edge-1", &good));
        assert!(!verify(b"other", b"nonce", "edge-1", &good));
        assert!(!verify(b"secret", b"other", "edge-1", &good));
        assert!(!verify(b"secret", b"nonce", "edge-2", &good));
        for bad in ["", "zz", &good[1..], &format!("{good}00"), &"é".repeat(32)] {
            assert!(!verify(b"secret", b"nonce", "edge-1", bad), "{bad:?}");
        }
    }
}
