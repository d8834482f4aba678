//! The far end of a session: `srsctl agent dial-stdio`, between the two pipes of its sshd.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::exchange::{Exchange, Refused};
use crate::frame::{Frame, MAGIC, Reader};
use crate::hello::{Hello, PROTO};
use crate::wire::Wire;

/// For so long the client may take to say who it is.
const GREETING: Duration = Duration::from_secs(15);

/// Serves one client until it is gone, or stopped for longer than [`crate::SILENCE`]: then what it had begun is dropped. `handle` is given
/// what an exchange is opened with and who asks, and does it.
///
/// # Errors
/// When the client cannot be understood, or nothing can be written to it.
pub async fn serve<F: Future<Output = Result<(), Refused>>>(
    input: impl AsyncRead + Unpin + Send + 'static,
    mut output: impl AsyncWrite + Unpin + Send + 'static,
    hello: &Hello,
    mut handle: impl FnMut(Vec<u8>, Exchange, &Hello) -> F,
) -> io::Result<()> {
    output.write_all(MAGIC).await?;
    output.flush().await?;
    let mut wire = Wire::new(input, output, Reader::without_magic());
    let own = serde_json::to_vec(hello)?;
    let _ = wire.outgoing.send(Frame::Hello(own)).await;
    let client = match timeout(GREETING, wire.incoming.recv()).await {
        Ok(Some(Frame::Hello(client))) => serde_json::from_slice::<Hello>(&client)?,
        // It has seen who we are, and goes.
        Ok(None) => return Ok(()),
        Ok(Some(_)) | Err(_) => return Err(io::Error::other("the client does not say who it is")),
    };
    if client.proto != PROTO {
        return Ok(());
    }
    loop {
        let opened = match wire.incoming.recv().await {
            Some(Frame::Open(opened)) => opened,
            Some(_) => return Err(io::Error::other("the client sends what belongs to nothing")),
            None => return Ok(()),
        };
        let (exchange, pump) = Exchange::new();
        let (outcome, last) = oneshot::channel();
        let last = async {
            match last.await {
                Ok(Err(refused)) => Frame::Refused(serde_json::to_vec(&refused).unwrap_or_default()),
                Ok(Ok(())) | Err(_) => Frame::End,
            }
        };
        let handled = handle(opened, exchange, &client);
        let work = async {
            let _ = outcome.send(handled.await);
        };
        let moves = pump.run(&mut wire.incoming, &wire.outgoing, &wire.ended, last);
        // Where the client is gone, the moves end first, and the work is dropped.
        let is_whole = {
            tokio::pin!(work, moves);
            tokio::select! {
                is_whole = &mut moves => is_whole,
                () = &mut work => moves.await,
            }
        };
        if !is_whole {
            return Ok(());
        }
    }
}
