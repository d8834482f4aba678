//! One exchange over a session, as a stream of bytes both ways.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use serde::{Deserialize, Serialize};
use tokio::io::{
    AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream, ReadBuf, duplex,
};
use tokio::sync::mpsc;

use crate::frame::Frame;
use crate::wire::Ended;

/// Bytes that wait on each way of an exchange.
const BUFFER: usize = 64 << 10;
/// Bytes of a message that refuses, at most.
const MAX_REASON: usize = 16 << 10;

/// Why the far end did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error("{message}")]
pub struct Refused {
    /// Exit code for the command that asked.
    pub code: u8,
    /// For a person.
    pub message: String,
}

impl Refused {
    /// With this exit code and message.
    pub fn new(code: u8, message: impl std::fmt::Display) -> Self {
        let mut message = message.to_string();
        let end = (0..=MAX_REASON.min(message.len())).rev().find(|end| message.is_char_boundary(*end));
        message.truncate(end.unwrap_or_default());
        Self { code, message }
    }
}

/// What both ends of an exchange read and write. Dropping it says that nothing more is sent; what still comes is let pass.
#[derive(Debug)]
pub struct Exchange {
    bytes: DuplexStream,
    refused: Arc<Mutex<Option<Refused>>>,
}

impl Exchange {
    /// Why it was refused, once it has ended.
    #[must_use]
    pub fn refused(&self) -> Option<Refused> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// It, and what has to run for as long as it lasts.
    pub(crate) fn new() -> (Self, Pump) {
        let (near, far) = duplex(BUFFER);
        let refused = Arc::default();
        (Self { bytes: near, refused: Arc::clone(&refused) }, Pump { far, refused })
    }
}

impl AsyncRead for Exchange {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.bytes).poll_read(context, buffer)
    }
}

impl AsyncWrite for Exchange {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.bytes).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.bytes).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.bytes).poll_shutdown(context)
    }
}

/// Moves the bytes of an exchange into frames and out of them.
#[derive(Debug)]
pub(crate) struct Pump {
    far: DuplexStream,
    refused: Arc<Mutex<Option<Refused>>>,
}

impl Pump {
    /// Until both ends have sent all; false when the session was over before.
    ///
    /// `last` is the frame that ends this way, once what was to be sent is sent.
    pub(crate) async fn run(
        self,
        incoming: &mut mpsc::Receiver<Frame>,
        outgoing: &mpsc::Sender<Frame>,
        ended: &Ended,
        last: impl Future<Output = Frame>,
    ) -> bool {
        let Self { far, refused } = self;
        let (mut out, mut into) = tokio::io::split(far);
        let sends = async {
            let mut buffer = vec![0; BUFFER];
            while let Ok(length @ 1..) = out.read(&mut buffer).await {
                let data = Frame::Data(buffer.get(..length).unwrap_or_default().to_vec());
                if outgoing.send(data).await.is_err() {
                    return;
                }
            }
            let _ = outgoing.send(last.await).await;
        };
        let takes = async {
            let is_whole = loop {
                match incoming.recv().await {
                    // Whoever asked may have gone: then it passes.
                    Some(Frame::Data(bytes)) => drop(into.write_all(&bytes).await),
                    Some(Frame::End) => break true,
                    Some(Frame::Refused(why)) => {
                        let why = serde_json::from_slice(&why)
                            .unwrap_or_else(|_| Refused::new(1, "refused, and not said why"));
                        *refused.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
                        break true;
                    }
                    Some(Frame::Ping) => {}
                    Some(Frame::Hello(_) | Frame::Open(_)) => {
                        ended.say("a message that does not belong there");
                        break false;
                    }
                    None => {
                        let why = ended.why().unwrap_or_else(|| "the session has ended".to_owned());
                        let why = Refused::new(1, format!("broken off: {why}"));
                        *refused.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
                        break false;
                    }
                }
            };
            let _ = into.shutdown().await;
            is_whole
        };
        tokio::pin!(sends, takes);
        tokio::select! {
            is_whole = &mut takes => {
                // Of a session that is over nothing more is sent, whatever the near end still has.
                if is_whole {
                    sends.await;
                }
                is_whole
            }
            () = &mut sends => takes.await,
        }
    }
}
