//! The handshake of both sides, on `rml_rtmp`'s: simple and digest (RTMP 1.0, section 5.2).
//!
//! That handshake is sound for hostile bytes. The chunk and AMF readers of the same library are not (one client can abort the
//! process), so ours are our own, and its sessions are an independent peer in tests.

use rml_rtmp::handshake::{Handshake, HandshakeProcessResult, PeerType};
use std::fmt;

/// Packets 1 and 2, bytes.
const PACKET: usize = 1536;

/// Packets 0, 1 and 2, bytes: what a peer sends.
const TOTAL: usize = 1 + 2 * PACKET;

/// The peer does not speak plain RTMP.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeError {
    /// Packet 0 is not 3; 6, 8 and 9 are encrypted variants, others no RTMP at all.
    #[error("the peer does not speak plain RTMP: the first byte is {0:#04x}, not 0x03")]
    Version(u8),
    /// The handshake itself failed.
    #[error("handshake: {0}")]
    Failed(String),
}

/// A handshake in progress. Takes exactly its bytes from the input, so that what follows stays there.
pub(crate) struct Handshaking {
    handshake: Handshake,
    received: usize,
    /// S1: what the server side sent or the client side received; the nonce of [`crate::auth`].
    s1: Vec<u8>,
    side: Side,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Server,
    Client,
}

impl Handshaking {
    /// Waits for C0; S0, S1 and S2 are written as soon as C1 is complete, without waiting for C2.
    pub(crate) fn server() -> Self {
        Self { handshake: Handshake::new(PeerType::Server), received: 0, s1: Vec::new(), side: Side::Server }
    }

    /// Writes C0 and C1 to `out`.
    pub(crate) fn client(out: &mut Vec<u8>) -> Result<Self, HandshakeError> {
        let mut handshake = Handshake::new(PeerType::Client);
        out.extend(handshake.generate_outbound_p0_and_p1().map_err(failed)?);
        Ok(Self { handshake, received: 0, s1: Vec::new(), side: Side::Client })
    }

    /// Consumes from the front of `input`; `true` when the handshake is complete. Packet 2 is never verified: Flash
    /// sends one that fails every check.
    pub(crate) fn read(&mut self, input: &mut &[u8], out: &mut Vec<u8>) -> Result<bool, HandshakeError> {
        let (taken, rest) = input.split_at((TOTAL - self.received).min(input.len()));
        if self.received == 0
            && let Some(&version) = taken.first()
            && version != 3
        {
            return Err(HandshakeError::Version(version));
        }
        *input = rest;
        if taken.is_empty() {
            return Ok(false);
        }
        if self.side == Side::Client {
            let skip = usize::from(self.received == 0);
            let want = PACKET - self.s1.len();
            let packet = taken.get(skip..).unwrap_or_default();
            self.s1.extend_from_slice(packet.get(..want).unwrap_or(packet));
        }
        self.received += taken.len();
        let (response, complete) = match self.handshake.process_bytes(taken).map_err(failed)? {
            HandshakeProcessResult::InProgress { response_bytes } => (response_bytes, false),
            HandshakeProcessResult::Completed { response_bytes, .. } => (response_bytes, true),
        };
        if self.side == Side::Server && self.s1.is_empty() {
            self.s1 = response.get(1..=PACKET).unwrap_or_default().to_vec();
        }
        out.extend_from_slice(&response);
        Ok(complete)
    }

    /// S1 of a handshake that is complete.
    pub(crate) fn into_s1(self) -> Vec<u8> {
        self.s1
    }
}

impl fmt::Debug for Handshaking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handshaking").field("received", &self.received).finish_non_exhaustive()
    }
}

fn failed(error: rml_rtmp::handshake::HandshakeError) -> HandshakeError {
    HandshakeError::Failed(error.to_string())
}
