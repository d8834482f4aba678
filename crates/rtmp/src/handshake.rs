//! The handshake of both sides, on `rml_rtmp`'s: simple and digest (RTMP 1.0, section 5.2).
//!
//! That handshake is sound for hostile bytes. The chunk and AMF readers of the same library are not (one client can abort the
//! process), so ours are our own, and its sessions are an independent peer in tests.

use rml_rtmp::handshake::{Handshake, HandshakeProcessResult, PeerType};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Packet 0: plain RTMP.
const VERSION: u8 = 3;

/// Packets 1 and 2, bytes.
pub(crate) const PACKET: usize = 1536;

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

/// The server's side. Takes exactly its bytes from the input, so that what follows stays there. Plain data.
///
/// ```text
/// AwaitC1 ──C0, C1: writes S0, S1, S2──▶ AwaitC2 ──C2──▶ complete
/// ```
///
/// Nothing is said before C1 is complete (a server may wait for it), and C2 is passed over: packet 2 is never verified, as Flash sends
/// one that fails every check.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum ServerHandshake {
    /// C0 and C1, as far as they have come.
    AwaitC1(Vec<u8>),
    /// S1, the nonce of [`crate::auth`], and the bytes of C2 that have come.
    AwaitC2 { s1: Box<[u8]>, received: usize },
}

impl Default for ServerHandshake {
    fn default() -> Self {
        Self::AwaitC1(Vec::new())
    }
}

impl ServerHandshake {
    /// Consumes from the front of `input`; S1 when the handshake is complete.
    pub(crate) fn read(
        &mut self,
        input: &mut &[u8],
        out: &mut Vec<u8>,
    ) -> Result<Option<Box<[u8]>>, HandshakeError> {
        if let Self::AwaitC1(packets) = self {
            if packets.is_empty() {
                check_version(input)?;
            }
            packets.extend_from_slice(take(input, 1 + PACKET - packets.len()));
            if packets.len() < 1 + PACKET {
                return Ok(None);
            }
            let mut handshake = Handshake::new(PeerType::Server);
            let (answer, _) = process(&mut handshake, packets)?;
            out.extend_from_slice(&answer);
            let s1 = answer.get(1..=PACKET).unwrap_or_default();
            *self = Self::AwaitC2 { s1: s1.into(), received: 0 };
        }
        let Self::AwaitC2 { s1, received } = self else { return Ok(None) };
        *received += take(input, PACKET - *received).len();
        Ok((*received == PACKET).then(|| std::mem::take(s1)))
    }

    /// Whether it is one: of a record it need not be.
    pub(crate) fn is_valid(&self) -> bool {
        match self {
            Self::AwaitC1(packets) => {
                packets.len() <= PACKET && packets.first().is_none_or(|&first| first == VERSION)
            }
            Self::AwaitC2 { s1, received } => s1.len() == PACKET && *received < PACKET,
        }
    }

    /// Bytes received.
    pub(crate) fn received(&self) -> usize {
        match self {
            Self::AwaitC1(packets) => packets.len(),
            Self::AwaitC2 { received, .. } => 1 + PACKET + received,
        }
    }

    /// Bytes on the heap.
    pub(crate) fn held(&self) -> usize {
        match self {
            Self::AwaitC1(packets) => packets.capacity(),
            Self::AwaitC2 { s1, .. } => s1.len(),
        }
    }
}

/// The client's side. Takes exactly its bytes from the input, as the server's.
pub(crate) struct ClientHandshake {
    handshake: Handshake,
    received: usize,
    /// S1, as far as it has come.
    s1: Vec<u8>,
}

impl ClientHandshake {
    /// Writes C0 and C1 to `out`.
    pub(crate) fn new(out: &mut Vec<u8>) -> Result<Self, HandshakeError> {
        let mut handshake = Handshake::new(PeerType::Client);
        out.extend(handshake.generate_outbound_p0_and_p1().map_err(failed)?);
        Ok(Self { handshake, received: 0, s1: Vec::new() })
    }

    /// Consumes from the front of `input`; S1 when the handshake is complete.
    pub(crate) fn read(
        &mut self,
        input: &mut &[u8],
        out: &mut Vec<u8>,
    ) -> Result<Option<Vec<u8>>, HandshakeError> {
        if self.received == 0 {
            check_version(input)?;
        }
        let taken = take(input, TOTAL - self.received);
        if taken.is_empty() {
            return Ok(None);
        }
        let packet = taken.get(usize::from(self.received == 0)..).unwrap_or_default();
        self.s1.extend_from_slice(packet.get(..PACKET - self.s1.len()).unwrap_or(packet));
        self.received += taken.len();
        let (answer, is_complete) = process(&mut self.handshake, taken)?;
        out.extend_from_slice(&answer);
        Ok(is_complete.then(|| std::mem::take(&mut self.s1)))
    }
}

impl fmt::Debug for ClientHandshake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientHandshake").field("received", &self.received).finish_non_exhaustive()
    }
}

fn check_version(input: &[u8]) -> Result<(), HandshakeError> {
    match input.first() {
        Some(&version) if version != VERSION => Err(HandshakeError::Version(version)),
        _ => Ok(()),
    }
}

/// Up to `count` bytes from the front of `input`.
fn take<'a>(input: &mut &'a [u8], count: usize) -> &'a [u8] {
    let (taken, rest) = input.split_at(count.min(input.len()));
    *input = rest;
    taken
}

/// What is to be said after `bytes`, and whether they end the handshake.
fn process(handshake: &mut Handshake, bytes: &[u8]) -> Result<(Vec<u8>, bool), HandshakeError> {
    Ok(match handshake.process_bytes(bytes).map_err(failed)? {
        HandshakeProcessResult::InProgress { response_bytes } => (response_bytes, false),
        HandshakeProcessResult::Completed { response_bytes, .. } => (response_bytes, true),
    })
}

fn failed(error: rml_rtmp::handshake::HandshakeError) -> HandshakeError {
    HandshakeError::Failed(error.to_string())
}
